"""Settings: the environment goes before the default, and nonsense is named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from narthex import settings
from narthex.errors import UsageError


def test_every_setting_has_its_own_variable_and_a_sentence() -> None:
    names = [setting.env for setting in settings.SETTINGS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("NARTHEX_") for name in names)
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
        ("REPEATS", "5", 5),
    ],
)
def test_values_are_read_as_people_write_them(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"NARTHEX_{name}", text)
    assert settings.get(name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"), [("SOAK", "long"), ("BACKOFF", "speed"), ("REPEATS", "0"), ("ALLOW_KV", "f64")]
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
        "help": settings.BY_SETTING["soak"].help,
    }
    assert rows["repeats"]["source"] == "default"
