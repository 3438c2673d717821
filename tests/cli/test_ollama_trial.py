"""``narthex trial`` on a model in Ollama: where it starts, what can be turned, what it tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.cli.target import find_target
from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.profiles.profile import Profile
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.residents import FOREVER, listed, load, stays_forever, unload
from narthex.trials.trial import TrialRecord

pytestmark = pytest.mark.engine
SHORT = ("--depth", "32", "--prompt-tokens", "16", "--generate", "8", "--repeats", "1", "--plain")
Keep = Callable[..., Profile]


def trial(capsys: pytest.CaptureFixture[str], fake: FakeOllama, *words: str) -> tuple[int, str, str]:
    code = run(command, ["trial", *words, "--ollama", fake.url])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def measured(capsys: pytest.CaptureFixture[str], fake: FakeOllama, *words: str) -> dict[str, Any]:
    code, out, err = trial(capsys, fake, *words, *SHORT, "--json")
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    return data


def last_trial(fake: FakeOllama) -> TrialRecord | None:
    with Journal.open() as journal:
        return journal.last_trial(find_target("small", ollama=fake.url).inspection.identity)


def test_the_first_starts_from_the_house_and_the_next_turns_one_knob(
    served: FakeOllama, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_HOUSE_CTX", "256")
    first = measured(capsys, served, "small")
    assert first["start"] == "the house defaults"
    assert first["before"] is None
    assert first["knobs"]["batch"] == first["knobs"]["ubatch"] == 256  # the house's, and no other micro-batch
    assert first["trial"]["model"]["served_as"] == "small:latest"

    code, out, err = trial(capsys, served, "small", "--set", "ubatch=128", "--repeats", "1")
    assert code == 0, err
    text = " ".join(out.split())
    assert "turned batch 256 → 128, ubatch 256 → 128 (from the last trial)" in text
    assert "last trial" in text  # the two are compared

    second = last_trial(served)
    assert second is not None
    assert (second.trial.knobs.batch, second.trial.knobs.ubatch) == (128, 128)
    assert second.observation.report is not None
    assert second.observation.report.ubatch == 128  # what Ollama's log told


def test_the_json_is_what_a_program_needs(
    served: FakeOllama, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = keep(served)
    data = measured(capsys, served, "small", "--from", profile.name, "--set", "threads=1")
    assert data["start"] == f"profile {profile.name}"
    assert data["difference"] == {"threads": [None, 1]}
    assert data["outcome"] == "done"
    assert {"turn_s", "decode_tps", "prompt_tps", "spread", "plan", "observation", "seconds"} <= set(data)
    seen = data["observation"]
    assert seen["report"]["num_ctx"] == 256
    assert seen["report"]["processor"] == "100% CPU"
    assert seen["peaks"]["ram_bytes"]  # of the runner's own process


def test_what_was_loaded_is_loaded_again_afterwards(
    served: FakeOllama, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    load(served, "small-set", FOREVER, num_ctx=768)
    measured(capsys, served, "small", "--from", keep(served).name)
    after = listed(served)
    unload(served)
    assert list(after) == ["small-set:latest"]
    assert after["small-set:latest"]["context_length"] == 768
    assert stays_forever(after["small-set:latest"])


@pytest.mark.parametrize(
    ("word", "sentence", "way_out"),
    [
        (
            "kv_type=q8_0",
            "--kv-type can't be q8_0 here: the server runs every load with f16",
            "KV_CACHE_TYPE",
        ),
        (
            "parallel=2",
            "--parallel can't be 2 here: the server runs every load with 1",
            "OLLAMA_NUM_PARALLEL",
        ),
        ("flash_attn=off", "--flash-attn can't be off here", "OLLAMA_FLASH_ATTENTION"),
    ],
)
def test_what_counts_for_the_whole_server_is_refused_before_anything_is_unloaded(
    word: str, sentence: str, way_out: str, served: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    load(served, "small-set")
    before = served.runner_pids()
    code, out, err = trial(capsys, served, "small", "--set", word)
    assert (code, out) == (ExitCode.USAGE, "")
    assert sentence in err
    assert way_out in err
    assert served.runner_pids() == before
    unload(served)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("batch=128", "ubatch=64"), "one value for both"),
        (("threads=4096",), "more than the"),
        (("num_ctx=256", "batch=64"), "turns 2 knobs at once"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    words: tuple[str, ...], sentence: str, served: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for word in words for part in ("--set", word)]
    code, _, err = trial(capsys, served, "small", *settings)
    assert code == ExitCode.USAGE
    assert sentence in err


def test_a_profile_of_llama_server_starts_as_this_server_can_have_it(
    served: FakeOllama, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    knobs = KnobValues(num_ctx=256, gpu_layers=0, batch=2048, ubatch=64, kv_type="q8_0", flash_attn="on")
    profile = keep(served, engine_kind="llama-server", knobs=knobs)
    data = measured(capsys, served, "small", "--from", profile.name)
    assert data["start"] == f"profile {profile.name}, as this server can have it"
    assert data["difference"] == {}
    assert (data["knobs"]["batch"], data["knobs"]["ubatch"], data["knobs"]["kv_type"]) == (64, 64, "f16")


def test_another_engines_trial_of_the_same_file_is_no_start(
    served: FakeOllama, keep: Keep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_HOUSE_CTX", "256")
    measured(capsys, served, "small", "--from", keep(served, knobs=KnobValues(num_ctx=320)).name)
    ours = last_trial(served)
    assert ours is not None
    theirs = msgspec.structs.replace(
        ours.trial, engine_key="llama-server b11434 CPU", knobs=KnobValues(num_ctx=512, gpu_layers=0)
    )
    with Journal.open() as journal:
        journal.append_trial(None, msgspec.structs.replace(ours, trial=theirs))
    again = measured(capsys, served, "small")
    assert again["start"] == "the last trial"
    assert again["knobs"]["num_ctx"] == 320  # of the last one on Ollama
    with Journal.open() as journal:
        assert journal.last_trial(ours.trial.model.identity, "llama-server") is not None


def test_after_llama_server_alone_it_starts_from_the_house(
    served: FakeOllama, keep: Keep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_HOUSE_CTX", "256")
    profile = keep(served)
    code = run(command, ["trial", profile.model.path, "--set", "num_ctx=512", *SHORT])
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    data = measured(capsys, served, "small")
    assert data["start"] == "the house defaults"
    assert data["before"] is None
    assert data["knobs"]["num_ctx"] == 256


def test_a_profile_of_ollama_is_proven_again_soaked_and_listed(
    served: FakeOllama, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them find the server where the profile was made; nobody has to name it again."""
    profile = keep(served, knobs=KnobValues(num_ctx=512, gpu_layers=0, batch=128, ubatch=128))
    assert run(command, ["profile", "verify", profile.name]) == 0, capsys.readouterr().err
    assert "Proven again: a turn took" in capsys.readouterr().out
    assert run(command, ["soak", profile.name, "--for", "2s", "--plain", "--json"]) == 0
    soaked = json.loads(capsys.readouterr().out)
    assert soaked["proven"] is True
    assert soaked["soak_s"] > profile.soak_s
    assert soaked["report"]["fill_max"] > 0.8
    assert run(command, ["profile", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["changes"] == []
    assert row["model"]["served_as"] == "small:latest"
    assert listed(served) == {}


def test_profiles_of_a_server_that_is_away_say_so(
    served: FakeOllama, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        keep(served, name=name, server_url="http://127.0.0.1:9")
    assert run(command, ["profile", "list", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out):
        assert row["changes"] == ["Ollama at http://127.0.0.1:9 can't be reached: the connection was refused"]
