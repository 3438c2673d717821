"""Prediction beside reality, term by term."""

from __future__ import annotations

import msgspec

from narthex.engines._base import DeviceBuffers, LoadReport
from narthex.knobs import KnobValues
from narthex.memory.plan import DevicePlan, MemoryPlan
from narthex.outcomes import Outcome
from narthex.trials.ledger import ledger, loaded_knobs
from narthex.trials.observation import Observation, Peaks
from narthex.trials.trial import ModelRef, Trial
from narthex.units import GIB, MIB

KNOBS = KnobValues(num_ctx=8192, gpu_layers=40)
TRIAL = Trial(
    model=ModelRef(path="m.gguf", identity="abc", name="m"),
    engine_key="llama-server b1",
    host_key="h",
    knobs=KNOBS,
)
CUDA = DeviceBuffers(device="CUDA0", model_bytes=8000 * MIB, context_bytes=500 * MIB, compute_bytes=300 * MIB)
HOST = DeviceBuffers(device="Host", model_bytes=900 * MIB, context_bytes=0, compute_bytes=20 * MIB)


def planned(compute: int = 310) -> MemoryPlan:
    def device(name: str, kind: str, *sizes: int) -> DevicePlan:
        model, context, compute, overhead = (size * MIB for size in sizes)
        return DevicePlan(
            name=name,
            kind=kind,  # type: ignore[arg-type]
            model_bytes=model,
            context_bytes=context,
            compute_bytes=compute,
            overhead_bytes=overhead,
            free_bytes=None,
            fits=None,
        )

    return MemoryPlan(
        knobs=KNOBS,
        devices=(device("GPU0", "gpu", 8010, 500, compute, 525), device("host", "host", 890, 0, 25, 1)),
        reserve_bytes=0,
        fits=None,
        margin_bytes=None,
        known_architecture=True,
        overhead_source="test",
    )


def loaded(*buffers: DeviceBuffers, layers: int | None = 40, vram: int | None = None) -> Observation:
    return Observation(
        outcome=Outcome.DONE,
        report=LoadReport(buffers=buffers, offloaded_layers=layers),
        peaks=Peaks(vram_bytes=vram),
    )


def test_each_term_of_each_device_is_one_record() -> None:
    rows = {(row.device, row.term): row for row in ledger(planned(), TRIAL, loaded(CUDA, HOST))}
    assert len(rows) == 6
    model = rows["CUDA0", "model"]
    assert (model.predicted_bytes, model.actual_bytes, model.source) == (8010 * MIB, 8000 * MIB, "log")
    assert (model.model_identity, model.engine_key, model.knobs) == ("abc", "llama-server b1", KNOBS)
    assert rows["Host", "compute"].predicted_bytes == 25 * MIB


def test_what_nvml_sees_beyond_the_buffers_is_the_overhead() -> None:
    rows = ledger(planned(), TRIAL, loaded(CUDA, HOST, vram=9200 * MIB))
    (overhead,) = [row for row in rows if row.term == "overhead"]
    assert (overhead.predicted_bytes, overhead.actual_bytes) == (525 * MIB, 400 * MIB)
    assert overhead.source == "nvml"


def test_the_twin_plan_with_logits_for_slots_only_stands_beside() -> None:
    rows = ledger(planned(), TRIAL, loaded(CUDA), slots_plan=planned(compute=200))
    (compute,) = [row for row in rows if row.term == "compute"]
    assert (compute.predicted_bytes, compute.slots_bytes) == (310 * MIB, 200 * MIB)


def test_a_plan_for_other_layers_teaches_nothing() -> None:
    assert ledger(planned(), TRIAL, loaded(CUDA, HOST, layers=38)) == []


def test_a_split_over_two_cards_teaches_nothing() -> None:
    second = msgspec.structs.replace(CUDA, device="CUDA1")
    assert ledger(planned(), TRIAL, loaded(CUDA, second)) == []


def test_a_failed_load_teaches_nothing() -> None:
    assert ledger(planned(), TRIAL, Observation(outcome=Outcome.OUT_OF_MEMORY, reason="line")) == []


def test_what_the_engine_really_loaded_is_known_from_its_report() -> None:
    report = LoadReport(offloaded_layers=33, num_ctx=4096)
    assert loaded_knobs(KnobValues(num_ctx=8192), report) == KnobValues(num_ctx=4096, gpu_layers=33)
    assert loaded_knobs(KNOBS, LoadReport()) == KNOBS


def test_the_batch_that_the_engine_chose_counts() -> None:
    knobs = loaded_knobs(KnobValues(batch=512, ubatch=512), LoadReport(ubatch=1024))
    assert (knobs.batch, knobs.ubatch) == (1024, 1024)
    cut = loaded_knobs(KnobValues(batch=2048, ubatch=512), LoadReport(ubatch=256))
    assert (cut.batch, cut.ubatch) == (2048, 256)


def test_sizes_told_with_one_decimal_teach_only_what_rounding_can_not_explain() -> None:
    card = DeviceBuffers(
        device="CUDA0",
        model_bytes=round(7.8 * GIB),  # 8010 MiB are 7.82 GiB
        context_bytes=round(500.0 * MIB),
        compute_bytes=round(400.0 * MIB),
    )
    seen = loaded(card, vram=9200 * MIB)
    assert seen.report is not None
    coarse = msgspec.structs.replace(seen, report=msgspec.structs.replace(seen.report, coarse=True))
    rows = {row.term: row for row in ledger(planned(), TRIAL, coarse)}
    assert rows["model"].actual_bytes == rows["model"].predicted_bytes == 8010 * MIB
    assert rows["compute"].actual_bytes == 400 * MIB
    assert "overhead" not in rows


def test_layers_that_the_engine_split_teach_nothing() -> None:
    seen = loaded(CUDA, HOST)
    assert seen.report is not None
    fit = "- CUDA0 (NVIDIA RTX): 40 layers (12 overflowing),   9100 MiB used,   1050 MiB free"
    split = msgspec.structs.replace(seen.report, fit=fit)
    assert ledger(planned(), TRIAL, msgspec.structs.replace(seen, report=split)) == []
