"""Whatever stands in a log: a replay ends, and counts each request once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narthex.errors import UsageError
from narthex.gateway.replay.reading import read_log
from narthex.gateway.replay.replay import replay
from narthex.gateway.watch.record import Line, LoadRecord, RequestRecord, StartRecord, TenantFigures

KEYS = ("a", "b", "c", "d")
seconds = st.floats(0, 200, allow_nan=False)
tenants = st.builds(
    TenantFigures,
    key=st.sampled_from(KEYS),
    need=st.none() | st.integers(1, 30),
    slots=st.none() | st.integers(1, 4),
    twin=st.sampled_from(("", "t")),
    elastic=st.booleans(),
    keep_alive_s=st.none() | st.sampled_from((-1.0, 0.0, 30.0, 1800.0)),
    pinned=st.booleans(),
)
lines = st.one_of(
    st.builds(
        StartRecord,
        at=seconds,
        total=st.none() | st.integers(1, 40),
        reserve=st.integers(0, 5),
        tenants=st.lists(tenants, max_size=4).map(tuple),
        resident=st.lists(st.sampled_from(KEYS), max_size=3, unique=True).map(tuple),
    ),
    st.builds(
        LoadRecord,
        at=seconds,
        key=st.sampled_from(KEYS),
        name=st.just("m"),
        seconds=seconds,
        held=st.none() | st.integers(0, 30),
        cause=st.sampled_from(("", "", "vram_oom_on_load")),
    ),
)
requests = st.builds(
    RequestRecord,
    id=st.just("r"),
    at=seconds,
    api=st.just("ollama"),
    path=st.just("/api/chat"),
    key=st.sampled_from((*KEYS, "")),
    choices=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True).map(tuple),
    client=st.sampled_from(("x", "y", "")),
    rank=st.integers(0, 3),
    task=st.sampled_from(("", "", "title_generation")),
    status=st.sampled_from((200, 200, 499, 503)),
    waited_s=seconds,
    total_s=seconds,
)
changes = st.lists(
    st.sampled_from(
        (
            "starvation=1s",
            "residency=60s",
            "keep_alive=5s",
            "queue=1",
            "wait=3s",
            "vram=20",
            "prefer_resident=true",
            "restore=false",
            "background=resident",
            "background=as-asked",
        )
    ),
    max_size=3,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(requests, min_size=1, max_size=25), st.lists(lines, max_size=6), changes)
def test_a_replay_ends_and_counts_each_request_once(
    tmp_path: Path, asked: list[RequestRecord], others: list[Line], tried: list[str]
) -> None:
    path = tmp_path / "log"
    path.write_bytes(msgspec.json.Encoder().encode_lines([*others, *asked]))
    found = replay(path, tried)
    for course in (found.happened, found.replayed, found.tried):
        if course is not None:
            assert course.answered + course.refused == len(asked)
            assert sum(share.requests for share in course.shares) == len(asked)
            assert course.waited_median_s <= course.waited_95_s <= course.waited_worst_s


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_passed_by_or_refused_in_a_sentence(tmp_path: Path, rows: list[bytes]) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(rows))
    with pytest.raises(UsageError):
        read_log(path)
