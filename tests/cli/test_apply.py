"""``narthex apply``: the tuned model stands where it behaves as measured, and nothing else is changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.profiles.profile import Profile
from narthex.profiles.store import load_profile, save_profile
from narthex.testing.command_line import Running
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call
from narthex.testing.residents import FOREVER, listed, load, stays_forever, unload

pytestmark = pytest.mark.engine
Keep = Callable[..., Profile]
Start = Callable[..., FakeOllama]
Shown = pytest.CaptureFixture[str]
KNOBS = KnobValues(num_ctx=256, gpu_layers=0, batch=128, ubatch=128)


def apply(capsys: Shown, *words: str) -> tuple[int, str, str]:
    code = run(command, ["apply", *words, "--plain"])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def names(fake: FakeOllama) -> set[str]:
    return {model["name"] for model in call(fake.url, "/api/tags")["models"]}


def manifests(fake: FakeOllama) -> dict[str, str]:
    """The user's own models, to the byte."""
    found = (path for path in (fake.store / "manifests").rglob("*") if path.is_file())
    own = (path for path in found if "narthex" not in str(path.relative_to(fake.store)))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in own}


def stored(name: str) -> Profile:
    with Journal.open() as journal:
        return load_profile(journal, name)


@pytest.fixture
def fresh(served: FakeOllama) -> Any:
    """The shared server, without what a test made on it."""
    yield served
    unload(served)
    for name in names(served) - {"small:latest", "small-set:latest"}:
        call(served.url, "/api/delete", {"model": name}, method="DELETE")


def test_it_is_made_shown_proven_without_options_and_the_original_stays(
    fresh: FakeOllama, keep: Keep, capsys: Shown
) -> None:
    profile, before = keep(fresh), manifests(fresh)
    load(fresh, "small-set", FOREVER, num_ctx=768)
    code, out, err = apply(capsys, profile.name)
    assert code == 0, err
    assert out.startswith(
        "FROM small:latest\nPARAMETER num_ctx 256\nPARAMETER num_gpu 0\nPARAMETER num_batch 128\n"
    )
    assert "It behaves as measured, loaded without any option" in " ".join(out.split())
    assert "Use it: ollama run small-narthex" in out
    assert f"Take it back: narthex unapply {profile.name}" in out

    assert names(fresh) == {"small:latest", "small-set:latest", "small-narthex:latest"}
    assert manifests(fresh) == before
    assert stays_forever(listed(fresh)["small-set:latest"])  # what was loaded is loaded again
    with Journal.open() as journal:
        (record,) = journal.trials(None)
    assert record.trial.purpose == "apply"
    report = record.observation.report
    assert report is not None
    assert (report.num_ctx, report.ubatch) == (256, 128)

    load_bare(fresh, "small-narthex")  # as any client does
    assert listed(fresh)["small-narthex:latest"]["context_length"] == 256


def load_bare(fake: FakeOllama, model: str) -> None:
    call(fake.url, "/api/generate", {"model": model})


def test_a_second_time_it_replaces_its_own_and_the_json_tells_all(
    fresh: FakeOllama, keep: Keep, capsys: Shown
) -> None:
    profile = keep(fresh, "small-set", knobs=KNOBS.with_(gpu_layers=None, batch=512, ubatch=512))
    assert apply(capsys, profile.name)[0] == 0
    first = stored(profile.name)
    with Journal.open() as journal:
        save_profile(journal, msgspec.structs.replace(first, knobs=first.knobs.with_(num_ctx=512)))
    code, out, err = apply(capsys, profile.name, "--json")
    assert code == 0, err
    data = json.loads(out)
    # The model sets num_thread 1; the profile leaves threads to Ollama, and the tuned model says so.
    assert data["parameters"] == {"num_ctx": 512, "num_thread": 0}
    assert {"profile", "server", "source", "model", "modelfile", "applied", "turn_s"} <= set(data)
    assert data["applied"] is True
    assert data["model"] == "small-set-narthex"
    shown = call(fresh.url, "/api/show", {"model": "small-set-narthex"})
    assert shown["parameters"].split() == ["num_ctx", "512", "num_thread", "0"]
    again = stored(profile.name)
    assert (again.applied_as, again.applied_to) == ("small-set-narthex", fresh.url)
    assert again.applied_digest != first.applied_digest


def test_a_name_that_is_taken_is_left_alone(fresh: FakeOllama, keep: Keep, capsys: Shown) -> None:
    profile = keep(fresh)
    call(fresh.url, "/api/copy", {"source": "small", "destination": "small-narthex"})
    before = manifests(fresh)
    for words, sentence, hint in (
        ((), "has a model «small-narthex» already, and it is not from this profile", "--as NAME"),
        (("--as", "small-set"), "has a model «small-set» already", "ollama rm small-set"),
        (("--as", "small"), "«small» is the model itself, which is never changed", "small-narthex"),
        (("--as", "Small:latest"), "which is never changed", "another name"),
    ):
        code, out, err = apply(capsys, profile.name, *words)
        assert (code, out) == (ExitCode.PROFILE, "")
        assert sentence in err
        assert hint in err
    code, _, err = apply(capsys, profile.name, "--as", "no such:name:")
    assert code == ExitCode.USAGE
    assert manifests(fresh) == before
    assert stored(profile.name).applied_as is None


def test_another_profiles_tuned_model_and_its_own_other_name_are_named(
    fresh: FakeOllama, keep: Keep, capsys: Shown
) -> None:
    first, second = keep(fresh), keep(fresh, name="small-other")
    assert apply(capsys, first.name)[0] == 0
    code, _, err = apply(capsys, second.name)
    assert code == ExitCode.PROFILE
    assert f"is the tuned model of another profile, {first.name}" in err
    assert f"narthex unapply {first.name}" in err
    code, _, err = apply(capsys, first.name, "--as", "elsewhere")
    assert code == ExitCode.PROFILE
    assert "stands in Ollama already, as «small-narthex»" in err


def test_what_is_much_slower_than_measured_is_taken_away(
    fresh: FakeOllama, keep: Keep, capsys: Shown
) -> None:
    profile = keep(fresh, turn_s=0.000_01)
    code, out, _ = apply(capsys, profile.name)
    assert code == ExitCode.FAILURE
    text = " ".join(out.split())
    assert "Not proven: a turn took" in text
    assert re.search(r"It was measured twice: a turn of [\d.]+ s, then a turn of [\d.]+ s\.", text)
    with Journal.open() as journal:
        assert [record.trial.purpose for record in journal.trials(None)] == ["apply", "apply"]
    assert "It was taken away again." in text
    assert "Use it" not in text
    assert names(fresh) == {"small:latest", "small-set:latest"}
    assert stored(profile.name).applied_as is None


def test_ctrl_c_in_the_proof_takes_it_away_and_puts_back_what_was_loaded(
    fresh: FakeOllama, keep: Keep
) -> None:
    profile = keep(fresh)
    load(fresh, "small", FOREVER)
    with Running("apply", profile.name, "--plain") as running:
        running.until("warm-up")
        assert "small-narthex:latest" in names(fresh)
        said = running.interrupt()
    assert said.code == ExitCode.INTERRUPTED, said.err
    assert names(fresh) == {"small:latest", "small-set:latest"}
    assert stored(profile.name).applied_as is None
    assert stays_forever(listed(fresh)["small:latest"])


def test_ctrl_c_leaves_what_an_earlier_apply_has_proven(fresh: FakeOllama, keep: Keep, capsys: Shown) -> None:
    profile = keep(fresh)
    assert apply(capsys, profile.name)[0] == 0
    with Running("apply", profile.name, "--plain") as running:
        running.until("warm-up")
        said = running.interrupt()
    assert said.code == ExitCode.INTERRUPTED
    assert "stays" in said.err
    assert "small-narthex:latest" in names(fresh)
    assert stored(profile.name).applied_as == "small-narthex"


def test_what_a_killed_apply_left_is_known_and_taken_back(
    fresh: FakeOllama, keep: Keep, capsys: Shown
) -> None:
    profile = keep(fresh)
    with Running("apply", profile.name, "--plain") as running:
        running.until("warm-up")
        running.kill()
    assert "small-narthex:latest" in names(fresh)
    assert run(command, ["unapply", profile.name]) == 0
    assert "«small-narthex» is removed" in capsys.readouterr().out
    assert names(fresh) == {"small:latest", "small-set:latest"}


@pytest.mark.slow
def test_a_server_that_goes_down_in_the_proof_is_told_what_is_left_there(
    fake_ollama: Start, gemma: Path, keep: Keep, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_OLLAMA_WAIT", "1s")
    fake = fake_ollama(models={"small": gemma})
    profile = keep(fake)
    with Running("apply", profile.name, "--plain") as running:
        running.until("warm-up")
        fake.kill()
        said = running.end()
    assert said.code == ExitCode.NO_ENGINE, said.err
    assert "«small-narthex» is not proven, and it can't be taken away" in said.err
    assert f"narthex unapply {profile.name}" in said.err
    fake.start()
    assert run(command, ["unapply", profile.name]) == 0
    assert names(fake) == {"small:latest"}


def test_a_profile_of_llama_server_is_refused_with_the_nearest_which_can_be_applied(
    fresh: FakeOllama, keep: Keep, capsys: Shown
) -> None:
    knobs = KnobValues(num_ctx=256, gpu_layers=0, batch=512, ubatch=64, kv_type="q8_0", flash_attn="on")
    profile = keep(fresh, engine_kind="llama-server", knobs=knobs, server_url=None)
    code, _, err = apply(capsys, profile.name, "--ollama", fresh.url)
    assert code == ExitCode.PROFILE
    assert "KV type q8_0: the server has f16" in err
    assert "batch 512 with a micro-batch of 64: Ollama has one num_batch for both" in err
    assert "The nearest that it can is ctx 256 · layers 0 · batch 64/64 · kv f16" in err
    assert "--nearest" in err
    code, out, err = apply(capsys, profile.name, "--ollama", fresh.url, "--nearest")
    assert code == 0, err
    text = " ".join(out.split())
    assert "PARAMETER num_batch 64" in text
    assert "This setting was not soaked." in text
    assert "Not as in the profile: KV type q8_0" in text
    assert stored(profile.name).applied_as == "small-narthex"


@pytest.mark.slow
def test_a_server_with_other_settings_by_now_is_told_apart(
    fake_ollama: Start, gemma: Path, keep: Keep, capsys: Shown
) -> None:
    fake = fake_ollama(models={"small": gemma})
    profile = keep(fake)
    fake.stop()
    fake.env = {"OLLAMA_NUM_PARALLEL": "2", "OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1"}
    fake.start()
    code, _, err = apply(capsys, profile.name)
    assert code == ExitCode.PROFILE
    assert "slots 1: the server has 2 (OLLAMA_NUM_PARALLEL" in err
    assert "KV type f16: the server has q8_0 (OLLAMA_KV_CACHE_TYPE" in err
    assert names(fake) == {"small:latest"}


def test_a_load_that_comes_out_otherwise_is_taken_away(fresh: FakeOllama, keep: Keep, capsys: Shown) -> None:
    """More context than the model was trained for is cut, as on a server that is short of memory."""
    profile = keep(fresh, knobs=KNOBS.with_(num_ctx=1_000_000))
    code, out, _ = apply(capsys, profile.name)
    assert code == ExitCode.FAILURE
    assert "It does not load as measured: context 32768 instead of 1000000" in " ".join(out.split())
    assert names(fresh) == {"small:latest", "small-set:latest"}


def test_another_model_under_the_name_is_refused(fresh: FakeOllama, keep: Keep, capsys: Shown) -> None:
    profile = keep(fresh)
    changed = msgspec.structs.replace(
        profile, model=msgspec.structs.replace(profile.model, identity="x", path="")
    )
    with Journal.open() as journal:
        save_profile(journal, changed)
    code, _, err = apply(capsys, changed.name + "-x")
    assert code == ExitCode.PROFILE
    assert "«small:latest» in Ollama is another model than this profile was made for" in err
