"""What loads teach: a constant, a factor, and which kind of build it is."""

from __future__ import annotations

from typing import Any

from narthex.knobs import KnobValues
from narthex.memory.calibrate import PredictionRecord, Term, calibrate, device_kind
from narthex.memory.overhead import CUDA_CONTEXT, CUDA_RUNTIME, device_overhead
from narthex.units import MIB


def load(term: Term, predicted: float, actual: float, **others: Any) -> PredictionRecord:
    """One term of one load, in MiB."""
    values = {"engine_key": "b1", "device": "CUDA0", "source": "log", **others}
    return PredictionRecord(
        model_identity="m",
        term=term,
        knobs=KnobValues(),
        predicted_bytes=round(predicted * MIB),
        actual_bytes=round(actual * MIB),
        **values,
    )


def test_nothing_is_learned_from_nothing() -> None:
    learned = calibrate([])
    assert learned.corrections == ()
    assert learned.correct("gpu", "compute", 5) == 5


def test_a_constant_that_was_missing_is_added() -> None:
    learned = calibrate([load("compute", 100, 140), load("compute", 900, 940)])
    assert learned.correct("gpu", "compute", 500 * MIB) == 540 * MIB
    assert learned.correct("host", "compute", 500 * MIB) == 500 * MIB


def test_a_factor_is_used_where_it_explains_the_loads_better() -> None:
    learned = calibrate([load("context", 100, 110), load("context", 1000, 1100)])
    assert learned.correct("gpu", "context", 500 * MIB) == 550 * MIB


def test_one_odd_load_changes_little() -> None:
    loads = [load("compute", size, size + 8) for size in (100, 200, 300, 400)]
    learned = calibrate([*loads, load("compute", 500, 5000)])
    assert learned.correct("gpu", "compute", 600 * MIB) == 608 * MIB


def test_only_the_newest_build_teaches() -> None:
    learned = calibrate(
        [load("compute", 100, 900, engine_key="old"), load("compute", 100, 101, engine_key="new")]
    )
    assert learned.engine_key == "new"
    assert learned.loads == 1
    assert learned.correct("gpu", "compute", 100 * MIB) == 101 * MIB


def test_a_build_that_plans_logits_for_its_slots_is_told_by_its_loads() -> None:
    servers = [load("compute", 524, 23, slots_bytes=23 * MIB), load("compute", 600, 90, slots_bytes=91 * MIB)]
    assert calibrate(servers).outputs == "slots"
    others = [load("compute", 524, 523, slots_bytes=23 * MIB)]
    assert calibrate(others).outputs == "every"


def test_measured_overhead_replaces_the_default() -> None:
    assert device_overhead(None)[0] == CUDA_CONTEXT + CUDA_RUNTIME
    learned = calibrate([load("overhead", 610, 640, source="nvml")])
    size, source = device_overhead(learned)
    assert size == 640 * MIB
    assert "1 loads" in source or "b1" in source


def test_every_name_of_main_memory_is_the_host() -> None:
    assert device_kind("Host") == device_kind("CPU") == "host"
    assert device_kind("CUDA0") == device_kind("RPC0") == "gpu"
