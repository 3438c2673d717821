"""A log through the scheduler again: what happened, and what another setting would have done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.errors import UsageError
from narthex.gateway.ask import Rank
from narthex.gateway.replay.reading import read_log
from narthex.gateway.replay.replay import replay
from narthex.gateway.replay.settings import changed, of_log
from narthex.gateway.schedule.records import Room, Tenant
from narthex.gateway.watch.record import (
    Line,
    LoadRecord,
    RequestRecord,
    StartRecord,
    TenantFigures,
    UnloadRecord,
)
from narthex.gateway.watch.request_log import NAME
from narthex.gateway.watch.starting import STEERING, start_record, steering
from narthex.policy.records import GatewayPolicy
from narthex.units import GIB

START = 1_764_000_000.0
A = TenantFigures(key="a", name="a:7b", need=12 * GIB, slots=4)
B = TenantFigures(key="b", name="b:7b", need=12 * GIB, slots=4)


def start(
    total: int | None = 20 * GIB, resident: tuple[str, ...] = (), **settings: float | bool | str
) -> StartRecord:
    known = {**steering(GatewayPolicy()), **settings}
    return StartRecord(at=START, total=total, settings=known, tenants=(A, B), resident=resident)


def request(
    at_s: float, key: str, /, *, client: str = "ide", service_s: float = 1.0, **other: Any
) -> RequestRecord:
    record = RequestRecord(
        id=f"r-{at_s}",
        at=START + at_s,
        api="ollama",
        path="/api/chat",
        ran=f"{key}:7b",
        key=key,
        choices=(key,),
        client=client,
        total_s=service_s,
    )
    changes = {"total_s": service_s + float(other.get("waited_s", 0.0)), **other}
    return msgspec.structs.replace(record, **changes)


def loaded(at_s: float, key: str, *, seconds: float = 5.0, evicted: tuple[str, ...] = ()) -> LoadRecord:
    return LoadRecord(
        at=START + at_s, key=key, name=f"{key}:7b", seconds=seconds, clients=("ide",), evicted=evicted
    )


def written(folder: Path, lines: Iterable[Line]) -> Path:
    path = folder / "log.jsonl"
    path.write_bytes(msgspec.json.Encoder().encode_lines(list(lines)))
    return path


def test_what_happened_is_told_as_it_is_logged(tmp_path: Path) -> None:
    log = written(
        tmp_path,
        [
            start(resident=("a",)),
            request(0, "a", client="openwebui"),
            request(1, "b", waited_s=7.0, loaded_for=True),
            UnloadRecord(at=START + 3, key="a", name="a:7b", client="ide", seconds=2.0),
            loaded(8, "b", evicted=("a",)),
            request(9, "b", key="", ran="", status=503, cause="queue_full", waited_s=0.1),
        ],
    )
    found = replay(log, []).happened
    assert (found.requests, found.answered, found.refused) == (3, 2, 1)
    assert (found.loads, found.swaps, found.unloads, found.lost_s) == (1, 1, 1, 7.0)
    assert found.waited_worst_s == 7.0
    ide = found.shares[0]
    assert (ide.client, ide.requests, ide.refused, ide.lost_s) == ("ide", 2, 1, 7.0)


def test_a_resident_model_that_is_asked_alone_waits_and_loads_nothing(tmp_path: Path) -> None:
    log = written(tmp_path, [start(resident=("a",)), *(request(number, "a") for number in range(20))])
    found = replay(log, []).replayed
    assert (found.answered, found.loads, found.swaps, found.waited_worst_s) == (20, 0, 0, 0.0)


def test_two_models_that_do_not_fit_together_swap_and_the_client_is_known(tmp_path: Path) -> None:
    log = written(
        tmp_path,
        [
            start(resident=("a",)),
            request(0, "a"),
            loaded(9, "b", seconds=6.0),
            request(10, "b", client="rag"),
        ],
    )
    found = replay(log, []).replayed
    assert (found.answered, found.loads, found.swaps) == (2, 1, 1)
    assert found.shares[0].client == "rag"
    assert found.lost_s >= 6.0
    assert found.waited_worst_s >= 6.0


def test_a_larger_card_would_have_swapped_nothing(tmp_path: Path) -> None:
    lines: list[Line] = [start(resident=("a",)), loaded(0, "b")]
    lines += [request(10.0 * number, "ab"[number % 2]) for number in range(12)]
    found = replay(written(tmp_path, lines), ["vram=32GB"])
    assert found.tried is not None
    assert found.replayed.swaps > 5
    assert (found.tried.swaps, found.tried.loads) == (0, 1)
    assert found.tried.waited_worst_s < found.replayed.waited_worst_s + 1e-9
    assert found.changes == ("vram=32GB",)


def test_a_shorter_wait_refuses_more(tmp_path: Path) -> None:
    lines: list[Line] = [
        start(resident=("a",)),
        loaded(0, "b", seconds=30.0),
        request(1, "b"),
        request(2, "b"),
    ]
    found = replay(written(tmp_path, lines), ["wait=5s"])
    assert found.tried is not None
    assert (found.replayed.refused, found.tried.refused) == (0, 2)


def test_an_idle_model_goes_after_the_keep_alive_that_is_tried(tmp_path: Path) -> None:
    lines: list[Line] = [start(resident=("a",)), loaded(0, "a"), request(1, "a"), request(400, "a")]
    found = replay(written(tmp_path, lines), ["keep_alive=60s"])
    assert found.tried is not None
    assert (found.replayed.unloads, found.replayed.loads) == (0, 0)
    assert (found.tried.unloads, found.tried.loads, found.tried.swaps) == (1, 1, 0)


def test_a_role_with_a_loaded_fallback_can_do_without_its_model(tmp_path: Path) -> None:
    lines: list[Line] = [
        start(resident=("a",)),
        loaded(0, "b"),
        request(1, "a"),
        request(2, "b", choices=("b", "a")),
    ]
    found = replay(written(tmp_path, lines), ["prefer_resident=true"])
    assert found.tried is not None
    assert (found.replayed.swaps, found.replayed.instead) == (1, 0)
    assert (found.tried.swaps, found.tried.instead) == (0, 1)


def test_background_calls_can_go_to_what_is_loaded(tmp_path: Path) -> None:
    title: dict[str, Any] = {"task": "title_generation", "rank": int(Rank.BACKGROUND)}
    lines: list[Line] = [start(resident=("a",)), loaded(0, "b"), request(1, "a"), request(20, "b", **title)]
    found = replay(written(tmp_path, lines), ["background=resident"])
    assert found.tried is not None
    assert (found.replayed.loads, found.tried.loads) == (1, 0)


def test_a_client_that_left_the_queue_leaves_it_again(tmp_path: Path) -> None:
    left = request(1, "b", key="", ran="", status=499, waited_s=2.0)
    lines: list[Line] = [start(resident=("a",)), loaded(0, "b", seconds=30.0), request(0, "a"), left]
    found = replay(written(tmp_path, lines), []).replayed
    assert (found.answered, found.refused, found.waited_worst_s) == (1, 1, 2.0)


def test_every_request_is_answered_or_refused_once(tmp_path: Path) -> None:
    lines: list[Line] = [start(starvation=10.0), loaded(0, "a"), loaded(0, "b")]
    lines += [request(0.3 * number, "aab"[number % 3], client=f"c{number % 5}") for number in range(300)]
    found = replay(written(tmp_path, lines), ["residency=20s", "queue=20"])
    for course in (found.happened, found.replayed, found.tried):
        assert course is not None
        assert course.answered + course.refused == 300
        assert sum(share.requests for share in course.shares) == 300


def test_a_replay_is_the_same_each_time(tmp_path: Path) -> None:
    lines: list[Line] = [start(), loaded(0, "a"), loaded(0, "b")]
    lines += [request(0.7 * number, "ab"[number % 2]) for number in range(60)]
    log = written(tmp_path, lines)
    assert replay(log, ["starvation=5s"]) == replay(log, ["starvation=5s"])


def test_bad_lines_are_counted_and_passed_by(tmp_path: Path) -> None:
    log = written(tmp_path, [start(resident=("a",)), request(0, "a")])
    with log.open("ab") as file:
        file.write(b'{"line":"request","at":"late"}\n\nnot json\n{"line":"reque')
    found = replay(log, [])
    assert found.happened.requests == 1
    assert found.gaps[0] == "3 lines could not be read and were passed by."


def test_requests_that_no_model_was_meant_for_are_left_out_and_told(tmp_path: Path) -> None:
    stray = request(2, "a", key="", ran="", choices=(), status=404, cause="model_not_found")
    found = replay(written(tmp_path, [start(resident=("a",)), request(0, "a"), stray]), [])
    assert found.happened.requests == 1
    assert "Left out: 1 request that never got to the scheduler." in found.gaps


def test_a_log_without_a_request_for_a_model_is_told(tmp_path: Path) -> None:
    stray = request(2, "a", key="", ran="", choices=(), status=404, cause="model_not_found")
    with pytest.raises(UsageError, match="No request in the log was for a model"):
        replay(written(tmp_path, [start(), stray]), [])


def test_what_else_had_the_card_is_told_and_not_counted(tmp_path: Path) -> None:
    image = LoadRecord(at=START, key="comfyui", name="ComfyUI", seconds=9.0, clients=("x",), evicted=("a",))
    found = replay(written(tmp_path, [start(resident=("a",)), image, request(0, "a")]), [])
    assert (found.happened.loads, found.happened.lost_s) == (0, 0.0)
    assert "Not asked for by any request, so not replayed: ComfyUI." in found.gaps


def test_what_the_log_does_not_tell_is_said(tmp_path: Path) -> None:
    found = replay(written(tmp_path, [request(0, "x")]), [])
    words = " ".join(found.gaps)
    assert "How much VRAM they need is not in the log: x" in words
    assert "The card's VRAM is not in the log" in words
    assert found.replayed.answered == 1


def test_a_model_that_never_loaded_does_not_load_in_the_replay(tmp_path: Path) -> None:
    failed = msgspec.structs.replace(loaded(3, "b"), cause="vram_oom_on_load")
    refused = request(0, "b", key="", ran="", status=503, cause="vram_oom_on_load")
    found = replay(written(tmp_path, [start(), failed, refused]), []).replayed
    assert (found.answered, found.refused, found.loads) == (0, 1, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"127.0.0.1 - - GET /\n" * 3, "no line of a request log"),
        (b"\x00\xff" * 5000, "no line of a request log"),
        (b'{"line":"start","at":1.0}\n', "no line of a request log"),
    ],
)
def test_a_file_that_is_no_log_gets_one_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_log(path)


def test_a_folder_is_read_with_all_its_files_and_a_missing_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "requests.1.jsonl").write_bytes(msgspec.json.encode(request(0, "a")) + b"\n")
    (tmp_path / NAME).write_bytes(msgspec.json.encode(request(1, "a")) + b"\n")
    assert len(read_log(tmp_path).requests) == 2
    with pytest.raises(UsageError, match="can't be read"):
        read_log(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no request log yet"):
        read_log(None)


def test_settings_are_read_as_in_narthex_toml() -> None:
    words = [
        "starvation=30s",
        "gateway.residency=2.5",
        "vram=20GB",
        "prefer-resident=true",
        "background=resident",
    ]
    found = changed(GatewayPolicy(), [*words, "queue=7"])
    assert (found.starvation, found.residency, found.vram) == (30.0, 2.5, 20 * GIB)
    assert (found.prefer_resident, found.background, found.queue) == (True, "resident", 7)


@pytest.mark.parametrize(
    "word", ["starvation", "listen=1.2.3.4:5", "queue=few", "background=never", "queue=0", "x=1"]
)
def test_a_setting_that_there_is_not_or_that_makes_no_sense_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"no setting that a replay can change|does not go with"):
        changed(GatewayPolicy(), [word])


def test_the_first_line_tells_the_models_and_the_card() -> None:
    tenants = [Tenant(key="a", need=5, slots=2, twin="t", keep_alive_s=-1.0, pinned=True)]
    line = start_record(GatewayPolicy(queue=9), Room(total=20, reserve=1), tenants, {"a": "a:7b"}, ["a"])
    assert (line.total, line.reserve, line.settings["queue"], line.resident) == (20, 1, 9, ("a",))
    (figures,) = line.tenants
    assert (figures.name, figures.need, figures.twin, figures.pinned) == ("a:7b", 5, "t", True)


def test_the_logs_own_settings_are_what_it_is_compared_with(tmp_path: Path) -> None:
    log = read_log(written(tmp_path, [start(starvation=17.0), request(0, "a")]))
    assert of_log(log).starvation == 17.0
    assert set(steering(of_log(log))) == set(STEERING)
