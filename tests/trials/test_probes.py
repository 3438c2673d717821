"""What else went on while we measured."""

from __future__ import annotations

from typing import Any

from narthex.host.sampler import Sample, Samples
from narthex.trials.probes import doubts, peaks
from narthex.units import GIB, MIB


def summary(**given: Any) -> Samples:
    usual = dict.fromkeys(Samples.__struct_fields__)
    return Samples(**{**usual, "count": 2, "seconds": 1.0, "throttle_reasons": (), "gaps": (), **given})


def card(*others: int) -> list[Sample]:
    return [
        Sample(at_s=float(at), vram_bytes=8 * GIB, vram_card_bytes=8 * GIB + other * MIB)
        for at, other in enumerate(others)
    ]


def test_a_quiet_machine_leaves_no_doubt() -> None:
    assert doubts(summary(other_cpus=0.1), card(300, 300, 310)) == ()


def test_other_programs_on_the_cpu_are_a_doubt() -> None:
    assert doubts(summary(other_cpus=500.0), []) == ("other programs used 500.0 CPUs meanwhile",)


def test_other_programs_that_come_to_the_card_are_a_doubt() -> None:
    (doubt,) = doubts(summary(), card(300, 300, 900))
    assert "changed by 600 MiB" in doubt


def test_throttling_is_a_doubt_with_its_reason() -> None:
    (doubt,) = doubts(summary(throttle_reasons=("power cap",)), [])
    assert "power cap" in doubt


def test_unknown_readings_stay_unknown() -> None:
    assert doubts(summary(), []) == ()
    assert peaks(summary()).vram_bytes is None
