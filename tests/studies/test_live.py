"""What a live study is asked, and what it is asked of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from narthex.engines._base import EngineDevice
from narthex.knobs import KnobValues
from narthex.memory.calibrate import Calibration
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.studies.baselines import House
from narthex.studies.live import devices_of, settled
from narthex.testing.samples import engine, host
from narthex.testing.study_builders import question
from narthex.units import GIB


@pytest.fixture(scope="module")
def inspection(gemma: Path) -> Inspection:
    return inspect_file(gemma)


def test_the_turn_is_cut_to_a_model_that_was_trained_for_less(inspection: Inspection) -> None:
    short = msgspec.structs.replace(inspection, context_train=2048)
    asked = settled(question(min_ctx=None), short)
    assert asked.min_ctx == 2048
    assert asked.turn.depth == 2048 - 512 - 256
    assert settled(asked, short) == asked


def test_the_turn_is_cut_to_what_the_user_has_now(inspection: Inspection) -> None:
    asked = settled(question(current=KnobValues(num_ctx=2048)), inspection)
    assert (asked.min_ctx, asked.turn.depth) == (4096, 2048 - 512 - 256)


def test_a_usual_turn_stays_as_it_is(inspection: Inspection) -> None:
    assert settled(question(), inspection).turn == question().turn


def test_each_of_two_equal_cards_has_its_own_free_memory() -> None:
    name = "NVIDIA RTX 4000 Ada"
    machine = host(name)
    first = msgspec.structs.replace(machine.gpus[0], free_bytes=2 * GIB)
    second = msgspec.structs.replace(machine.gpus[0], index=1, uuid="other", free_bytes=18 * GIB)
    machine = msgspec.structs.replace(machine, gpus=(first, second))
    listed = tuple(EngineDevice(f"CUDA{n}", name, 20 * GIB, free * GIB) for n, free in enumerate((17, 1)))
    found = devices_of(
        msgspec.structs.replace(engine(), devices=listed), machine, Calibration(engine_key=None)
    )
    assert [row.free_bytes for row in found[:2]] == [18 * GIB, 2 * GIB]


def test_the_turn_is_cut_to_a_start_point_of_the_policy(inspection: Inspection) -> None:
    asked = settled(question(), inspection, house=House(num_ctx=3500))
    assert (asked.min_ctx, asked.turn.depth) == (4096, 3500 - 512 - 256)


def test_a_start_point_that_holds_no_turn_at_all_changes_nothing(inspection: Inspection) -> None:
    assert settled(question(), inspection, house=House(num_ctx=512)).turn == question().turn


def test_of_a_machine_elsewhere_no_memory_is_known() -> None:
    far = msgspec.structs.replace(host(card=None), ram_total_bytes=0, ram_available_bytes=0)
    (memory,) = devices_of(engine(device=None), far, Calibration(engine_key=None))
    assert (memory.free_bytes, memory.total_bytes) == (None, None)
