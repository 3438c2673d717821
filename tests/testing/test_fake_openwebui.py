"""The fake OpenWebUI answers as a real one does without a login."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from narthex.testing.fake_openwebui import PAGE, FakeOpenWebUI, install


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def test_health_version_and_config_are_told_to_everybody() -> None:
    with FakeOpenWebUI(version="0.6.5") as fake:
        assert ask(f"{fake.url}/health") == {"status": True}
        assert ask(f"{fake.url}/api/version")["version"] == "0.6.5"
        config = ask(f"{fake.url}/api/config")
        assert (config["name"], config["version"], config["features"]["auth"]) == (
            "Open WebUI",
            "0.6.5",
            True,
        )
        assert fake.requests == ["/health", "/api/version", "/api/config"]


def test_an_unhealthy_one_says_so_with_503() -> None:
    with FakeOpenWebUI() as fake:
        fake.healthy = False
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"{fake.url}/health")
    assert caught.value.code == 503


def test_models_need_a_login_and_any_other_path_is_the_page() -> None:
    with FakeOpenWebUI() as fake:
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"{fake.url}/api/models")
        with urllib.request.urlopen(f"{fake.url}/whatever", timeout=10) as answer:
            assert answer.read() == PAGE
    assert caught.value.code == 401


def test_after_it_vanished_nobody_answers() -> None:
    with FakeOpenWebUI() as fake:
        pass
    with pytest.raises(urllib.error.URLError):
        ask(f"{fake.url}/health")


def test_as_a_process_it_is_named_open_webui_and_ends_when_told(tmp_path: Path) -> None:
    words = [sys.executable, str(install(tmp_path)), "serve"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert ask(f"{url}/health") == {"status": True}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
