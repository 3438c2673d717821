"""What can go wrong with MODEL and --ollama: a sentence, a way out, the right exit code, nothing touched."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.errors import ExitCode
from narthex.knobs import KnobValues
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.gguf_writer import write_gguf
from narthex.testing.ollama.canned import canned
from narthex.testing.residents import listed, load, unload

pytestmark = pytest.mark.engine
NOBODY = "http://127.0.0.1:9"
SHORT = ("--depth", "32", "--prompt-tokens", "16", "--generate", "8", "--repeats", "1")
Start = Callable[..., FakeOllama]
Shown = pytest.CaptureFixture[str]


def refused(capsys: Shown, *words: str) -> tuple[int, str]:
    """Exit code, and what was said of it: a sentence and its hint, nothing on stdout."""
    code = run(command, list(words))
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "Traceback" not in seen.err
    sentence, hint = seen.err.rstrip("\n").rsplit("\n", 2)[-2:]
    assert sentence.startswith("narthex: "), seen.err
    assert hint.startswith("  "), seen.err
    return code, seen.err


@pytest.fixture
def web_page() -> Iterator[str]:
    """A proxy that answers whatever it is asked with a page."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html><body>Welcome!</body></html>")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def odd(engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeOllama]:
    """A server with models that can't be tuned."""
    folder = tmp_path_factory.mktemp("odd")
    with FakeOllama(folder / "models", engine=engine_binary) as fake:
        fake.add_model("small", gemma)
        fake.add_model("noted", gemma, {"num_ctx": "4096 # enough"})
        values = {"general.architecture": "bert", "bert.block_count": 1, "bert.embedding_length": 64}
        tensors = [("token_embd.weight", (64, 10), "F16")]
        bert = write_gguf(folder / "bert.gguf", {**values, "bert.pooling_type": 1}, tensors)
        fake.add_model("embedder", bert)
        yield fake


@pytest.mark.parametrize("verb", ["tune", "trial", "plan", "inspect"])
def test_nobody_answers_at_the_address(verb: str, capsys: Shown) -> None:
    code, said = refused(capsys, verb, "small", "--ollama", NOBODY)
    assert code == ExitCode.NO_ENGINE
    assert f"Ollama at {NOBODY} can't be reached: the connection was refused" in said
    assert "ollama serve" in said


@pytest.mark.parametrize("verb", ["tune", "trial", "models"])
def test_a_proxy_answers_with_a_page(verb: str, web_page: str, capsys: Shown) -> None:
    words = [verb] if verb == "models" else [verb, "small"]
    code, said = refused(capsys, *words, "--ollama", web_page)
    assert code == ExitCode.NO_ENGINE
    assert f"At {web_page} something answers that is not Ollama: a web page came back" in said
    assert "Ollama's own address" in said


@pytest.mark.parametrize(
    "name", ["sm*ll", "we/ird:na:me", "small model", "größe", "-small-", "a/b/c/d/e", "small:", "\N{BELL}"]
)
def test_a_name_with_odd_characters(name: str, odd: FakeOllama, capsys: Shown) -> None:
    code, said = refused(capsys, "tune", "--ollama", odd.url, "--", name)
    assert code == ExitCode.USAGE
    assert "can't be the name of a model in Ollama" in said


def test_an_unknown_model_brings_the_names_that_are_there(odd: FakeOllama, capsys: Shown) -> None:
    code, said = refused(capsys, "tune", "smal", "--ollama", odd.url)
    assert code == ExitCode.USAGE
    assert "has no model «smal:latest»" in said
    assert "small:latest" in said.splitlines()[-1]


def test_a_server_without_models(fake_ollama: Start, capsys: Shown) -> None:
    fake = fake_ollama()
    code, said = refused(capsys, "tune", "small", "--ollama", fake.url)
    assert code == ExitCode.USAGE
    assert "It holds no model yet: `ollama pull small:latest` fetches one." in said
    assert run(command, ["models", "--ollama", fake.url]) == 0
    assert "It holds no model yet" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["tune", "trial"])
def test_an_embedding_model_has_no_speed_to_measure(verb: str, odd: FakeOllama, capsys: Shown) -> None:
    code, said = refused(capsys, verb, "embedder", "--ollama", odd.url)
    assert code == ExitCode.USAGE
    assert "embedder:latest is an embedding model" in said
    assert "narthex models" in said


@pytest.mark.parametrize("verb", ["tune", "trial", "plan"])
def test_a_note_behind_a_parameters_value_is_named_before_anything_is_unloaded(
    verb: str, odd: FakeOllama, capsys: Shown
) -> None:
    """`PARAMETER num_ctx 4096 # enough`: Ollama stores it, and no load survives it."""
    load(odd, "small")
    before = odd.runner_pids()
    code, said = refused(capsys, verb, "noted", "--ollama", odd.url)
    assert code == ExitCode.USAGE
    assert "PARAMETER num_ctx is «4096 # enough», which is not a whole number" in said
    assert "nothing may follow it on its line" in said
    assert odd.runner_pids() == before
    unload(odd)


def test_a_model_that_computes_elsewhere(capsys: Shown) -> None:
    with canned() as answers:
        stub = {"details": {"format": "", "family": ""}, "remote_host": "https://ollama.com:443"}
        names = {"name": "big:671b-cloud", "model": "big:671b-cloud", "size": 384, "digest": "c" * 64}
        answers.tags = [names | stub]
        answers.shows = {"big:671b-cloud": stub | {"model_info": {}, "capabilities": ["completion"]}}
        code, said = refused(capsys, "tune", "big:671b-cloud", "--ollama", answers.url)
    assert code == ExitCode.USAGE
    assert "big:671b-cloud" in said
    assert "ollama.com" in said


@pytest.mark.parametrize("version", ["0.1.48", "0.3.14"])
def test_an_ollama_of_2024_is_measured_as_well(
    version: str, fake_ollama: Start, gemma: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_HOUSE_CTX", "256")
    fake = fake_ollama(models={"small": gemma}, version=version)
    code = run(command, ["trial", "small", *SHORT, "--ollama", fake.url, "--json"])
    seen = capsys.readouterr()
    assert code == 0, seen.err
    data = json.loads(seen.out)
    assert data["trial"]["engine_key"].startswith(f"ollama {version}")
    assert data["turn_s"] > 0
    assert data["observation"]["report"]["num_ctx"] == 256
    assert listed(fake) == {}


def test_an_ollama_that_cannot_list_what_is_loaded_is_too_old(
    fake_ollama: Start, gemma: Path, capsys: Shown
) -> None:
    fake = fake_ollama(models={"small": gemma}, version="0.1.32")
    code, said = refused(capsys, "tune", "small", "--ollama", fake.url)
    assert code == ExitCode.NO_ENGINE
    assert "This Ollama is 0.1.32; narthex needs 0.1.38 or later." in said


def test_a_tuned_model_needs_an_ollama_that_takes_parameters(
    fake_ollama: Start, gemma: Path, capsys: Shown, keep: Callable[..., object]
) -> None:
    fake = fake_ollama(models={"small": gemma}, version="0.3.14", env={"OLLAMA_NUM_PARALLEL": "1"})
    keep(fake, knobs=KnobValues(num_ctx=256, gpu_layers=0, batch=128, ubatch=128, flash_attn="off"))
    code, said = refused(capsys, "apply", "small-quick")
    assert code == ExitCode.NO_ENGINE
    assert "takes no parameters through its API" in said
    assert "ollama create" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--vram", "20GB"), "--vram is for an Ollama whose cards can't be seen from here"),
        (("--engine", "ollama", "--engine-path", "/x"), "Ollama starts its own"),
        (("--set", "kv_type=q8_0"), "can't be q8_0 here"),
        (("--parallel", "3"), "can't be 3 here"),
        (("--allow-kv", "q4_0"), "can't be q4_0 here"),
        (("--set", "threads=4096"), "more than the"),
        (("--beside", "nobody"), "There is no tenant «nobody»"),
        (("--set", "batch=64", "--set", "ubatch=32"), "one value for both"),
        (("--depth", "5000", "--ctx", "512"), "does not fit a context of 512"),
    ],
)
def test_an_option_that_this_server_cannot_follow(
    words: tuple[str, ...], sentence: str, odd: FakeOllama, capsys: Shown
) -> None:
    code, said = refused(capsys, "tune", "small", "--ollama", odd.url, *words)
    assert code == ExitCode.USAGE
    assert sentence in said
    assert "unload" not in said
