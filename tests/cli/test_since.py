"""Moments as people write them."""

from __future__ import annotations

import contextlib
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.cli.since import parse_since
from narthex.errors import UsageError

NOW = datetime(2026, 11, 22, 15, 30, 0).astimezone()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", "2026-11-22 13:30:00"),
        ("90s", "2026-11-22 15:28:30"),
        ("1.5h", "2026-11-22 14:00:00"),
        ("10 min ago", "2026-11-22 15:20:00"),
        ("3 days ago", "2026-11-19 15:30:00"),
        ("2 weeks", "2026-11-08 15:30:00"),
        ("1 hour ago", "2026-11-22 14:30:00"),
        ("today", "2026-11-22 00:00:00"),
        ("Yesterday", "2026-11-21 00:00:00"),
        ("14:05", "2026-11-22 14:05:00"),
        ("2026-11-20", "2026-11-20 00:00:00"),
        ("2026-11-20 14:30", "2026-11-20 14:30:00"),
        ("2026-11-20T14:30:15", "2026-11-20 14:30:15"),
    ],
)
def test_a_moment_in_local_time(text: str, moment: str) -> None:
    assert datetime.fromtimestamp(parse_since(text, NOW)).isoformat(" ") == moment


def test_a_zone_counts_where_one_is_given() -> None:
    assert parse_since("2026-11-20T12:00:00Z", NOW) == parse_since("2026-11-20T14:00:00+02:00", NOW)


@pytest.mark.parametrize("text", ["", "soon", "2 moons", "99999999999999w", "2026-13-01", "25:00", "-2h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        parse_since(text, NOW)


@pytest.mark.parametrize("text", ["16:00", "2027-01-01"])
def test_what_is_still_to_come_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="still to come"):
        parse_since(text, NOW)


@given(st.text(max_size=20))
def test_nothing_but_a_clear_refusal_comes_of_nonsense(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_since(text, NOW) <= NOW.timestamp()


def test_nothing_is_older_than_programs_count() -> None:
    assert parse_since("0900-01-01", NOW) == 0.0
