"""Collectors at work: all at once, each in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from narthex.doctor.collect import gather as gathering
from narthex.doctor.collect.gather import Collected, Scope, gather, live_evidence
from narthex.doctor.collect.names import NAMES
from narthex.doctor.evidence import Reading
from narthex.doctor.reading.text import Text
from narthex.doctor.sign import Sign
from narthex.host.processes import pids, read_text


def collector(name: str, collect: Callable[[Scope], Collected], time_s: float = 5.0) -> SimpleNamespace:
    return SimpleNamespace(NAME=name, TIME_S=time_s, collect=collect)


def says(name: str) -> SimpleNamespace:
    return collector(name, lambda scope: Collected(readings=(Reading(name="ram", value=1, about=name),)))


def test_everything_comes_together_in_the_order_of_the_table() -> None:
    found = gather(Scope(), collectors=[says("one"), says("two")])
    assert [row.about for row in found.readings] == ["one", "two"]


def test_only_the_named_ones_run() -> None:
    found = gather(Scope(), only=["two"], collectors=[says("one"), says("two")])
    assert [row.about for row in found.readings] == ["two"]


def test_one_that_takes_too_long_is_told_and_its_program_is_ended() -> None:
    def hang(scope: Scope) -> Collected:
        scope.children.run(["sleep", "86399.5"], seconds=600)
        return Collected()

    found = gather(Scope(), collectors=[collector("slow", hang, time_s=0.4), says("quick")])
    (gap,) = found.skipped
    assert (gap.what, gap.why) == ("slow", "can't tell, because it took longer than 0.4 s")
    assert not gap.broke
    assert [row.about for row in found.readings] == ["quick"]
    until = time.monotonic() + 10
    while (left := [pid for pid in pids() if "86399.5" in read_text(Path(f"/proc/{pid}/cmdline"))]) and (
        time.monotonic() < until
    ):
        time.sleep(0.02)
    assert not left


def test_one_that_breaks_is_told_and_hides_no_other() -> None:
    def broken(scope: Scope) -> Collected:
        raise ValueError("no such row")

    found = gather(Scope(), collectors=[collector("broken", broken), says("quick")])
    (gap,) = found.skipped
    assert gap.broke
    assert gap.why == "the collector broke: ValueError: no such row"
    assert len(found.readings) == 1


def test_a_shared_look_is_made_once_and_its_failure_is_everybodys() -> None:
    looks: list[int] = []

    def look() -> int:
        time.sleep(0.05)
        looks.append(1)
        return 7

    def fail() -> int:
        raise OSError("gone")

    scope = Scope()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(scope.once("key", look))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7, 7, 7, 7]
    assert looks == [1]
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            scope.once("broken", fail)


def test_readings_and_logs_become_evidence_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    sign = Sign(r"oom-killer: gfp_mask")
    log = Text(kind="dmesg", name="dmesg", data=b"llama-server invoked oom-killer: gfp_mask=0xcc0\n")
    one = collector(
        "both", lambda scope: Collected(texts=(log,), readings=(Reading(name="ram", value=1, text="1 B"),))
    )
    monkeypatch.setattr(gathering, "COLLECTORS", (one,))
    evidence = live_evidence(Scope(), [sign])
    assert evidence.live
    assert evidence.value("ram") == 1
    hit = evidence.first(sign)
    assert hit is not None
    assert hit.quote().source == "dmesg"


def test_every_collector_has_a_name_of_its_own_and_a_time() -> None:
    names = [each.NAME for each in gathering.COLLECTORS]
    assert len(set(names)) == len(names)
    assert all(each.TIME_S > 0 for each in gathering.COLLECTORS)


@pytest.mark.usefixtures("no_docker")
def test_what_the_host_collectors_say_is_named_and_can_be_quoted(host: Callable[..., Scope]) -> None:
    for name in ("healthy", "nouveau", "fallen_off", "killed_for_memory", "amd"):
        found = gather(host(name, nvml=("false",)), collectors=gathering.HOST)
        assert not [gap for gap in found.skipped if gap.broke]
        for row in found.readings:
            assert row.name in NAMES
            assert (row.value is None) == bool(row.gap)
            assert row.text or row.gap.startswith("can't tell, because ")
            assert "\n" not in row.text + row.gap


def test_this_machine_breaks_no_collector() -> None:
    found = gather(Scope(), collectors=gathering.HOST)
    assert not [gap for gap in found.skipped if gap.broke]
    assert {"ram", "disk", "docker.engine"} <= {row.name for row in found.readings}
