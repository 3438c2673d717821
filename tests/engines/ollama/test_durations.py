"""Durations in Go's words."""

from __future__ import annotations

import pytest

from narthex.engines.ollama.durations import default_keep_alive, go_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1m23s", 83.0),
        ("152.3µs", 152.3e-6),
        ("2.5ms", 2.5e-3),
        (".5s", 0.5),
        ("-1h", -3600.0),
        ("+1h", 3600.0),
        ("12", None),
        ("", None),
        ("5 minutes", None),
        ("--5m", None),
    ],
)
def test_a_duration_is_read_as_go_writes_it(text: str, seconds: float | None) -> None:
    assert go_seconds(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 300),
        ("5m0s", 300),
        ("1h30m", 5400),
        ("90", 90),
        ("0", 0),
        ("1.5h", 5400),
        ("-1", None),
        ("-1m", None),
        ("2562047h47m16.854775807s", None),
        ("soon", 300),
        ("1.2.3s", 300),
    ],
)
def test_the_servers_keep_alive_is_read_as_ollama_reads_it(text: str, seconds: float | None) -> None:
    assert default_keep_alive(text) == seconds
