"""Settings: the environment goes before narthex.toml, that before the default, and nonsense is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from narthex import settings
from narthex.errors import UsageError


def test_every_setting_has_its_own_variable_and_a_sentence() -> None:
    names = [setting.env for setting in settings.SETTINGS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("NARTHEX_") for name in names if name != "OLLAMA_HOST")
    keys = [setting.toml for setting in settings.SETTINGS if setting.toml]
    assert len(set(keys)) == len(keys)
    assert all(setting.help.endswith(".") for setting in settings.SETTINGS)


def test_the_environment_goes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.get("soak") == 150.0
    assert settings.resolve("soak").source == "default"
    monkeypatch.setenv("NARTHEX_SOAK", "30m")
    assert settings.get("soak") == 1800.0
    assert settings.resolve("soak").source == "environment"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("RESERVE", "1GiB", 2**30),
        ("BACKOFF", "gpu_layers, num_ctx", ("gpu_layers", "num_ctx")),
        ("ALLOW_KV", "q4_0", ("q4_0",)),
        ("GROW", "ctx", "ctx"),
        ("OLLAMA_LOG", "docker:ollama", "docker:ollama"),
        ("HOUSE_GPU_LAYERS", "0", 0),
        ("REPEATS", "5", 5),
    ],
)
def test_values_are_read_as_people_write_them(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"NARTHEX_{name}", text)
    assert settings.get(name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("SOAK", "long"), ("BACKOFF", "speed"), ("REPEATS", "0"), ("ALLOW_KV", "f64"), ("OLLAMA_LOG", "here")],
)
def test_nonsense_is_refused_with_the_variable_named(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"NARTHEX_{name}", text)
    with pytest.raises(UsageError, match=f"NARTHEX_{name}"):
        settings.get(name.lower())


def test_the_command_tells_where_each_value_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_SOAK", "60")
    out = subprocess.run(
        [sys.executable, "-m", "narthex", "settings", "--json"], capture_output=True, text=True, check=True
    ).stdout
    rows = {row["name"]: row for row in json.loads(out)}
    assert set(rows) == set(settings.BY_SETTING)
    assert rows["soak"] == {
        "name": "soak",
        "value": 60.0,
        "source": "environment",
        "environment": "NARTHEX_SOAK",
        "toml": "policy.soak",
        "help": settings.BY_SETTING["soak"].help,
    }
    assert rows["repeats"]["source"] == "default"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy file of this test."""
    path = tmp_path / "narthex.toml"
    monkeypatch.setenv("NARTHEX_CONFIG", str(path))
    return path


def test_the_file_goes_before_the_default_and_after_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[policy]\nsoak = "60s"\n')
    found = settings.resolve("soak")
    assert (found.value, found.source) == (60.0, "narthex.toml: policy.soak")
    assert settings.resolve("repeats").source == "default"
    monkeypatch.setenv("NARTHEX_SOAK", "10")
    assert settings.resolve("soak").source == "environment"


def test_every_key_of_the_table_can_be_set_in_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NARTHEX_GATEWAY")
    file.write_text(
        "[defaults]\nnum_ctx = 1\nnum_gpu = 0\nnum_batch = 2\n"
        '[policy]\nbackoff = ["gpu"]\ngrow = "off"\nreserve = 0\nsoak = 3\n'
        'allow_kv = ["q8_0"]\nrepeats = 4\n'
        '[ollama]\nhost = "h"\nlog = "file:x"\nwait = 5\n'
        '[gateway]\nlisten = "127.0.0.1:1"\n'
    )
    for setting in settings.SETTINGS:
        if setting.toml:
            assert settings.resolve(setting.name).source == f"narthex.toml: {setting.toml}"


def test_a_file_with_nonsense_stops_with_its_line(file: Path) -> None:
    file.write_text("[policy]\nsaok = 3\n")
    answer = subprocess.run(
        [sys.executable, "-m", "narthex", "settings"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "narthex.toml, line 2: there is no «saok» in [policy]." in answer.stderr
    assert "Did you mean «soak»?" in answer.stderr
