"""A profile in other programs' words; llama-server itself is asked whether it understands them."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest

from narthex.errors import ProfileError
from narthex.knobs import KnobValues
from narthex.profiles.export import FORMATS, export
from narthex.profiles.profile import Profile
from narthex.testing.samples import KNOBS, profile
from narthex.trials.trial import ModelRef

SMALL = KnobValues(
    num_ctx=512, gpu_layers=0, batch=256, ubatch=64, kv_type="q8_0", flash_attn="on", parallel=2, threads=1
)


def of(path: str, knobs: KnobValues = SMALL) -> Profile:
    return profile(model=ModelRef(path=path, identity="i", name="Demo 7B"), knobs=knobs)


def test_the_command_line_gives_every_slot_its_context() -> None:
    words = shlex.split(export(of("/m.gguf"), "llama-server"))
    assert words[0] == "llama-server"
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options == {
        "--model": "/m.gguf",
        "--ctx-size": "1024",
        "--batch-size": "256",
        "--ubatch-size": "64",
        "--cache-type-k": "q8_0",
        "--cache-type-v": "q8_0",
        "--flash-attn": "on",
        "--parallel": "2",
        "--n-gpu-layers": "0",
        "--fit": "off",
        "--threads": "1",
    }


def test_what_the_engine_decides_is_left_to_it() -> None:
    text = export(of("/m.gguf", KnobValues()), "llama-server")
    assert "--n-gpu-layers" not in text
    assert "--fit" not in text
    assert "--threads" not in text
    assert "--n-cpu-moe" not in text


def test_experts_on_the_cpu_and_the_engines_own_arguments_are_kept() -> None:
    kept = msgspec.structs.replace(
        of("/m.gguf", KNOBS.with_(cpu_moe=12)), engine_args=("--rpc", "127.0.0.1:50052")
    )
    assert export(kept, "llama-server").rstrip().endswith("--n-cpu-moe 12 --rpc 127.0.0.1:50052")
    assert "command line: --rpc 127.0.0.1:50052" in export(kept, "env")


@pytest.mark.parametrize("path", ["/a b/it's «m».gguf", "/$HOME/`x`.gguf", '/"q".gguf'])
def test_an_odd_path_comes_through_a_shell_unchanged(path: str) -> None:
    words = shlex.split(export(of(path), "llama-server"))
    assert words[words.index("--model") + 1] == path
    script = f'set -a; eval {shlex.quote(export(of(path), "env"))}; printf %s "$LLAMA_ARG_MODEL"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == path


def test_the_modelfile_says_what_ollama_reads_there() -> None:
    knobs = KnobValues(num_ctx=8192, gpu_layers=33, batch=128, ubatch=128, threads=8)
    lines = export(of("/a b/m.gguf", knobs), "modelfile").splitlines()
    instructions = [line for line in lines if not line.startswith("#")]
    assert instructions == [
        "FROM /a b/m.gguf",
        "PARAMETER num_ctx 8192",
        "PARAMETER num_gpu 33",
        "PARAMETER num_batch 128",
        "PARAMETER num_thread 8",
    ]


def test_a_profile_that_ollama_cannot_express_is_refused_with_the_nearest() -> None:
    with pytest.raises(ProfileError, match="can't express") as caught:
        export(of("/m.gguf", KNOBS), "modelfile")
    assert "one num_batch for both" in caught.value.message
    assert "KV type q8_0: the server has f16" in caught.value.message
    assert "ctx 8192 · layers 33 · batch 128/128 · kv f16" in caught.value.hint
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in caught.value.hint


def test_a_profile_made_with_ollama_names_what_its_server_had() -> None:
    made = msgspec.structs.replace(
        of("/m.gguf", KNOBS.with_(batch=128, parallel=2, cpu_moe=4)), engine_kind="ollama"
    )
    made = msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, served_as="demo:7b"))
    text = export(made, "modelfile")
    for variable in (
        "OLLAMA_KV_CACHE_TYPE=q8_0",
        "OLLAMA_FLASH_ATTENTION=1",
        "OLLAMA_NUM_PARALLEL=2",
        "LLAMA_ARG_N_CPU_MOE=4",
    ):
        assert re.search(rf"^#.*{variable}$", text, re.MULTILINE)
    assert "FROM demo:7b\n" in text


def test_comments_of_a_modelfile_come_before_its_first_instruction() -> None:
    """After an instruction Ollama takes ``#`` as part of a value."""
    lines = export(of("/m.gguf", KnobValues(batch=512)), "modelfile").splitlines()
    first = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    assert all(not line.startswith("#") for line in lines[first:])


def test_json_is_the_whole_record() -> None:
    assert msgspec.json.decode(export(profile(), "json"), type=Profile) == profile()


def test_a_relative_path_is_made_absolute() -> None:
    assert f"--model {os.getcwd()}/m.gguf" in export(of("m.gguf"), "llama-server")


def test_an_unknown_format_names_those_that_exist() -> None:
    with pytest.raises(ProfileError, match="no format «yaml»") as caught:
        export(profile(), "yaml")
    assert "modelfile" in caught.value.hint


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_path_with_a_line_break_is_refused(form: str) -> None:
    with pytest.raises(ProfileError, match="line break"):
        export(of("/m\n.gguf"), form)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _props(process: subprocess.Popen[bytes], port: int) -> dict[str, object]:
    """What the server says about itself, once it is ready."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "llama-server ended instead of serving"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/props", timeout=5) as answer:
                found = msgspec.json.decode(answer.read())
                assert isinstance(found, dict)
                return found
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("llama-server was not ready in time")


@pytest.mark.engine
@pytest.mark.parametrize("form", ["llama-server", "env"])
def test_a_real_llama_server_starts_with_what_was_exported(
    form: str, engine_binary: Path, gemma: Path, tmp_path: Path
) -> None:
    text, port = export(of(str(gemma)), form), _free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--verbosity", "4"]
    environment = dict(os.environ)
    if form == "env":
        (tmp_path / "profile.env").write_text(text)
        script = f'set -a; . {tmp_path}/profile.env; set +a; exec "$@"'
        command = ["sh", "-c", script, "sh", str(engine_binary), *where]
    else:
        command = [str(engine_binary), *shlex.split(text)[1:], *where]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            found = _props(process, port)
        finally:
            process.terminate()
            process.wait(30)
    assert found["total_slots"] == 2
    assert found["model_path"] == str(gemma)
    settings = found["default_generation_settings"]
    assert isinstance(settings, dict)
    assert settings["n_ctx"] == SMALL.num_ctx
    said = log.read_text(errors="replace")
    for line in (
        r"n_batch += 256",
        r"n_ubatch += 64",
        r"flash_attn += enabled",
        r"K \(q8_0\).*V \(q8_0\)",
        r"n_threads = 1\b",
    ):
        assert re.search(line, said), f"the server did not say {line}"
