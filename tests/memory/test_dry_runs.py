"""The plan beside the engine's own dry runs: recorded ones, other settings, other architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narthex.memory.plan import Device, DevicePlan, plan_memory
from narthex.models.inspection import Inspection
from narthex.units import MIB

from .conftest import Model, Row, Rows, asked

CARD = (Device(name="GPU0", kind="gpu", free_bytes=80_000 * MIB), Device(name="host", kind="host"))
TERMS = ("model", "context", "compute")


def planned(inspection: Inspection, row: Row, devices: tuple[Device, ...] = CARD) -> list[dict[str, int]]:
    """Bytes by term of each device."""

    def terms(device: DevicePlan) -> dict[str, int]:
        return dict(zip(TERMS, (device.model_bytes, device.context_bytes, device.compute_bytes), strict=True))

    return [terms(device) for device in plan_memory(inspection, asked(row), devices).devices]


def differences(inspection: Inspection, row: Row, devices: tuple[Device, ...] = CARD) -> list[str]:
    """Terms whose whole MiB are not the engine's."""
    names = ("gpu", "host")[-len(devices) :]
    found = planned(inspection, row, devices)
    return [
        f"{row} {name} {term}: {terms[term] / MIB:.1f}"
        for name, terms in zip(names, found, strict=True)
        for term in TERMS
        if terms[term] // MIB != row[f"{name}_{term}"]
    ]


@pytest.fixture(scope="session")
def recorded(shared: Path) -> list[Row]:
    """The 235 recorded dry runs."""
    return [json.loads(line) for line in (shared / "bench" / "memory_truth.jsonl").read_text().splitlines()]


def near(off: float, truth: float, *, percent: float, mib: float) -> bool:
    return abs(off) <= max(truth * percent / 100, mib)


def test_the_promised_accuracy_holds_on_every_recorded_dry_run(
    known_model: Model, recorded: list[Row]
) -> None:
    total_off: list[tuple[float, int]] = []
    term_off: dict[str, list[tuple[float, int]]] = {term: [] for term in TERMS}
    for row in recorded:
        gpu = planned(known_model(row["model"]), row)[0]
        truth = {term: row["gpu"][f"{term}_mib"] for term in TERMS}
        total_off.append((sum(gpu.values()) / MIB - sum(truth.values()), sum(truth.values())))
        for term in TERMS:
            term_off[term].append((gpu[term] / MIB - truth[term], truth[term]))
    assert len(total_off) >= 235
    assert sum(near(*pair, percent=2, mib=64) for pair in total_off) >= 0.95 * len(total_off)
    assert all(near(*pair, percent=5, mib=64) for pair in total_off)
    assert min(off for off, _ in total_off) >= -96
    for pairs in term_off.values():
        assert sum(near(*pair, percent=5, mib=16) for pair in pairs) >= 0.95 * len(pairs)


def test_every_term_of_every_recorded_dry_run_is_met_to_the_mib(
    known_model: Model, recorded: list[Row]
) -> None:
    wrong = []
    for row in recorded:
        flat = {
            f"{name}_{term}": row[name][f"{term}_mib"] for name in ("gpu", "host") for term in TERMS
        } | row
        wrong += differences(known_model(row["model"]), flat)
    assert not wrong


@pytest.mark.slow
def test_other_settings_are_met_to_the_mib(known_model: Model, dry_runs: Rows) -> None:
    rows = dry_runs("dry_runs_by_setting.csv")
    assert not [text for row in rows for text in differences(known_model(row["model"]), row)]


def test_each_architecture_is_met_to_the_mib(shape: Model, dry_runs: Rows) -> None:
    rows = dry_runs("dry_runs_by_architecture.csv")[::7]
    assert len({row["model"] for row in rows}) == 59
    assert not [text for row in rows for text in differences(shape(row["model"]), row)]


@pytest.mark.slow
def test_each_architecture_in_each_setting_is_met_to_the_mib(shape: Model, dry_runs: Rows) -> None:
    rows = dry_runs("dry_runs_by_architecture.csv")
    assert not [text for row in rows for text in differences(shape(row["model"]), row)]


def test_without_a_gpu_main_memory_is_met_to_the_mib(shape: Model, dry_runs: Rows) -> None:
    host = (Device(name="host", kind="host"),)
    rows = dry_runs("dry_runs_without_gpu.csv")[::4]
    assert not [text for row in rows for text in differences(shape(row["model"]), row, host)]
