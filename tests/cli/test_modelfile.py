"""``narthex profile export --format modelfile``: a text that Ollama's own grammar accepts, word for word."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from narthex.profiles.store import save_profile
from narthex.testing.samples import profile

PLAIN = KnobValues(num_ctx=8192, gpu_layers=33, batch=128, ubatch=128)
INSTRUCTIONS = {
    "from", "parameter", "template", "system", "adapter", "draft", "renderer", "parser", "license", "message",
    "requires",
}  # fmt: skip
INTEGERS = {"num_ctx", "num_gpu", "num_batch", "num_thread"}
Shown = pytest.CaptureFixture[str]


def parse(text: str) -> Iterator[tuple[str, str]]:
    """A strict reader of Ollama's grammar: instructions and their values.

    ``#`` is a comment only where an instruction could start; a value ends with its line; a quote at its
    beginning would have to be closed, so none is taken here.
    """
    assert text.endswith("\n")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"([A-Za-z]+) (\S.*)", line)
        assert found, f"line {number} is no instruction: {line!r}"
        word, value = found[1].lower(), found[2]
        assert word in INSTRUCTIONS, f"line {number}: command must be one of …: {word}"
        assert not value.startswith('"'), f"line {number}: a quoted value"
        assert value == value.strip()
        yield word, value


def read(text: str) -> tuple[str, dict[str, Any]]:
    """The source and the parameters, with their types checked as Ollama checks them."""
    rows = list(parse(text))
    assert [word for word, _ in rows].count("from") == 1
    parameters: dict[str, Any] = {}
    for word, value in rows:
        if word != "parameter":
            continue
        name, _, told = value.partition(" ")
        if name in INTEGERS:
            parameters[name] = int(told, 10)
        else:
            assert name == "use_mmap", f"unknown parameter '{name}'"
            assert told in ("true", "false")
            parameters[name] = told == "true"
    (source,) = [value for word, value in rows if word == "from"]
    return source, parameters


def keep(knobs: KnobValues, **changes: Any) -> Profile:
    with Journal.open() as journal:
        return save_profile(journal, msgspec.structs.replace(profile("kept", knobs=knobs), **changes))


def served(name: str = "demo:7b") -> dict[str, Any]:
    sample = profile()
    return {"engine_kind": "ollama", "model": msgspec.structs.replace(sample.model, served_as=name, path="")}


def export(capsys: Shown, *words: str) -> tuple[int, str, str]:
    code = run(command, ["profile", "export", "kept", "--format", "modelfile", *words])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


@pytest.mark.parametrize(
    ("knobs", "parameters"),
    [
        (PLAIN, {"num_ctx": 8192, "num_gpu": 33, "num_batch": 128}),
        (PLAIN.with_(gpu_layers=None, batch=1024, ubatch=1024), {"num_ctx": 8192}),
        (PLAIN.with_(threads=8, mmap="off"), {"num_thread": 8, "use_mmap": False}),
        (PLAIN.with_(gpu_layers=0, num_ctx=1_048_576), {"num_ctx": 1_048_576, "num_gpu": 0}),
    ],
)
def test_a_profile_of_ollama_is_said_whole(
    knobs: KnobValues, parameters: dict[str, Any], capsys: Shown
) -> None:
    keep(knobs, **served())
    code, out, _ = export(capsys)
    assert code == 0
    source, told = read(out)
    assert source == "demo:7b"
    assert told.items() >= parameters.items()


def test_what_the_model_sets_itself_is_taken_back_where_the_profile_leaves_it_open(capsys: Shown) -> None:
    automatic = PLAIN.with_(gpu_layers=None, batch=1024, ubatch=1024)
    keep(automatic, base_parameters={"num_gpu": 5, "num_batch": 32, "num_thread": 2, "top_k": 3}, **served())
    _, told = read(export(capsys)[1])
    assert told == {"num_ctx": 8192, "num_gpu": -1, "num_batch": 1024, "num_thread": 0}


def test_what_counts_for_the_whole_server_stands_in_comments_before_the_first_instruction(
    capsys: Shown,
) -> None:
    keep(PLAIN.with_(kv_type="q8_0", flash_attn="on", parallel=2), **served())
    out = export(capsys)[1]
    read(out)
    for variable in ("OLLAMA_KV_CACHE_TYPE=q8_0", "OLLAMA_FLASH_ATTENTION=1", "OLLAMA_NUM_PARALLEL=2"):
        assert re.search(rf"^#\s+{variable}$", out, re.MULTILINE)
    assert out.index("#   OLLAMA_NUM_PARALLEL") < out.index("FROM ")


class TestAProfileOfLlamaServer:
    KNOBS = PLAIN.with_(batch=2048, kv_type="q8_0", flash_attn="on", parallel=2)

    def test_it_is_refused_with_the_nearest(self, capsys: Shown) -> None:
        keep(self.KNOBS)
        code, out, err = export(capsys)
        assert (code, out) == (ExitCode.PROFILE, "")
        assert "batch 2048 with a micro-batch of 128" in err
        assert "KV type q8_0" in err
        assert "--nearest" in err
        assert "--server-wide" in err

    def test_the_nearest_names_each_difference_and_is_not_called_proven(self, capsys: Shown) -> None:
        keep(self.KNOBS, soak_s=150.0, proven=True)
        code, out, err = export(capsys, "--nearest")
        assert code == 0
        source, told = read(out)
        assert source == profile().model.path
        assert (told["num_ctx"], told["num_batch"]) == (8192, 128)
        assert "not proven by a soak" in out
        assert err.count("not as measured") == 3

    def test_with_the_servers_variables_set_only_the_batch_is_left(self, capsys: Shown) -> None:
        keep(self.KNOBS)
        code, _, err = export(capsys, "--server-wide")
        assert code == ExitCode.PROFILE
        assert "KV type" not in err
        keep(self.KNOBS.with_(batch=128))
        code, out, _ = export(capsys, "--server-wide")
        assert code == 0
        assert "#   OLLAMA_KV_CACHE_TYPE=q8_0" in out
        assert read(out)[1]["num_batch"] == 128


@pytest.mark.parametrize("name", ["a b.gguf", "it's #1.gguf", '"quoted".gguf', "größe.gguf"])
def test_an_odd_path_is_one_value(name: str, tmp_path: Path, capsys: Shown) -> None:
    model = msgspec.structs.replace(profile().model, path=str(tmp_path / name))
    keep(PLAIN, model=model)
    assert read(export(capsys)[1])[0] == str(tmp_path / name)


def test_a_server_cannot_smuggle_a_line_in_with_its_version(capsys: Shown) -> None:
    keep(PLAIN, engine_build="0.33.0\nFROM other", **served())
    assert read(export(capsys)[1])[0] == "demo:7b"
