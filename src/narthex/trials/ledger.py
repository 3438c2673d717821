"""Prediction beside reality, term by term: what the planner learns from. Pure."""

from __future__ import annotations

import msgspec

from narthex.engines._base import DeviceBuffers, LoadReport
from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.memory.calibrate import PredictionRecord, Term, device_kind
from narthex.memory.plan import Device, DevicePlan, MemoryPlan, plan_memory
from narthex.models.inspection import Inspection
from narthex.trials.observation import Observation
from narthex.trials.trial import Trial
from narthex.units import GIB, MIB


def loaded_knobs(knobs: KnobValues, report: LoadReport) -> KnobValues:
    """The setting as the engine really loaded it: its own choice of layers and batch, the context granted."""
    ubatch = report.ubatch or knobs.ubatch
    return knobs.with_(
        gpu_layers=report.offloaded_layers if report.offloaded_layers is not None else knobs.gpu_layers,
        num_ctx=report.num_ctx or knobs.num_ctx,
        batch=max(knobs.batch, ubatch),
        ubatch=ubatch,
    )


def predictions(
    inspection: Inspection, devices: tuple[Device, ...], trial: Trial, observation: Observation
) -> list[PredictionRecord]:
    """What a trial taught the planner: plans what was really loaded, without corrections, and compares.

    Empty where nothing was loaded, or where the planner refuses the setting.
    """
    if observation.report is None:
        return []
    knobs = loaded_knobs(trial.knobs, observation.report)
    try:
        every = plan_memory(inspection, knobs, devices, outputs="every")
        slots = plan_memory(inspection, knobs, devices, outputs="slots")
    except UsageError:
        return []
    return ledger(every, trial, observation, slots_plan=slots)


def ledger(
    plan: MemoryPlan, trial: Trial, observation: Observation, *, slots_plan: MemoryPlan | None = None
) -> list[PredictionRecord]:
    """One record for each term and device that the engine's log or NVML told.

    ``plan`` is the uncalibrated plan of :func:`loaded_knobs`, ``slots_plan`` the same with logits for the
    slots only. Empty where the load failed or printed no sizes, where it was split over several GPUs or
    within layers, and where the plan is for another number of layers than were loaded.
    """
    report = observation.report
    if report is None or not report.buffers or report.splits_layers:
        return []
    if _of_kind(plan, "gpu") and report.offloaded_layers not in (None, plan.knobs.gpu_layers):
        return []
    gpus = [row for row in report.buffers if device_kind(row.device) == "gpu"]
    if len(gpus) > 1:
        return []
    records = []
    for buffers in report.buffers:
        kind = device_kind(buffers.device)
        if (device := _of_kind(plan, kind)) is not None:
            told = _agreed(device, buffers) if report.coarse else buffers
            records += _terms(trial, device, _of_kind(slots_plan, kind), told)
    if report.coarse:
        return records  # what was rounded away is as much as the overhead
    return records + _overhead(trial, plan, gpus, observation)


_TERMS: tuple[Term, ...] = ("model", "context", "compute")


def _agreed(device: DevicePlan, buffers: DeviceBuffers) -> DeviceBuffers:
    """Sizes told with one decimal: where the plan rounds to the same, it stands."""
    sizes = {
        f"{term}_bytes": _bytes(device, term)
        for term in _TERMS
        if abs(_bytes(device, term) - _bytes(buffers, term)) <= _grain(_bytes(buffers, term)) / 2
    }
    return msgspec.structs.replace(buffers, **sizes)


def _grain(size: int) -> float:
    """A tenth of the unit that a size is written in."""
    return next((unit for unit in (GIB, MIB, 1024) if size >= unit), 1) / 10


def _terms(
    trial: Trial, device: DevicePlan, twin: DevicePlan | None, buffers: DeviceBuffers
) -> list[PredictionRecord]:
    return [
        _record(
            trial,
            buffers.device,
            term,
            (_bytes(device, term), _bytes(buffers, term)),
            slots_bytes=_bytes(twin, term) if twin else None,
        )
        for term in _TERMS
    ]


def _bytes(record: DevicePlan | DeviceBuffers, term: Term) -> int:
    size: int = getattr(record, f"{term}_bytes")
    return size


def _overhead(
    trial: Trial, plan: MemoryPlan, gpus: list[DeviceBuffers], observation: Observation
) -> list[PredictionRecord]:
    """What the process holds on the card beside the engine's own buffers."""
    seen = observation.peaks.vram_bytes
    device = _of_kind(plan, "gpu")
    if seen is None or device is None or not gpus:
        return []
    told = gpus[0].model_bytes + gpus[0].context_bytes + gpus[0].compute_bytes
    return [_record(trial, gpus[0].device, "overhead", (device.overhead_bytes, max(0, seen - told)))]


def _of_kind(plan: MemoryPlan | None, kind: str) -> DevicePlan | None:
    return next((row for row in plan.devices if row.kind == kind), None) if plan else None


def _record(
    trial: Trial, device: str, term: Term, sizes: tuple[int, int], slots_bytes: int | None = None
) -> PredictionRecord:
    return PredictionRecord(
        model_identity=trial.model.identity,
        engine_key=trial.engine_key,
        device=device,
        term=term,
        knobs=trial.knobs,
        predicted_bytes=sizes[0],
        actual_bytes=sizes[1],
        source="nvml" if term == "overhead" else "log",
        slots_bytes=slots_bytes,
    )
