"""Which prompts a soak asks, and how its readings are put side by side."""

from __future__ import annotations

from itertools import pairwise

import pytest

from narthex.host.sampler import Sample
from narthex.trials.rounds import GENERATE, STEP, chosen, samples, sizes
from narthex.trials.soak import SoakTurn


@pytest.mark.parametrize("slot_ctx", [256, 512, 2048, 4096, 8192, 12288, 32768, 131072])
def test_every_prompt_and_its_answer_fit_the_context(slot_ctx: int) -> None:
    generate = min(GENERATE, slot_ctx // 16)
    assert all(size > 0 and size + generate < slot_ctx for size in sizes(slot_ctx, generate))


@pytest.mark.parametrize("slot_ctx", [512, 8192, 32768])
def test_the_first_prompt_fills_nine_tenths(slot_ctx: int) -> None:
    assert sizes(slot_ctx, slot_ctx // 16)[0] >= 0.9 * slot_ctx


def test_answers_cross_each_step_of_the_context() -> None:
    plan = sizes(32768, GENERATE)
    for step in (STEP, 2 * STEP, 3 * STEP):
        assert any(size < step < size + GENERATE for size in plan)


def test_in_the_first_round_all_slots_are_full_and_later_they_differ() -> None:
    plan = sizes(4096, GENERATE)
    assert chosen(plan, 0, 3) == (plan[0],) * 3
    assert len(set(chosen(plan, 1, 3))) == 3
    assert {size for number in range(1, 6) for size in chosen(plan, number, 1)} == set(plan)


def test_neighbouring_rounds_differ() -> None:
    plan = sizes(4096, GENERATE)
    assert all(one != other for one, other in pairwise(chosen(plan, number, 1) for number in range(1, 5)))


def test_readings_carry_the_fill_and_the_speed_of_their_moment() -> None:
    turn = SoakTurn(began_s=0.0, ended_s=2.0, sizes=(900,), generated=64, decode_tps=40.0)
    series = [Sample(at_s=float(at), ram_bytes=at) for at in range(4)]
    found = samples(series, [turn], [(0.5, 0.3), (1.5, 0.9)])
    assert [row.fill for row in found] == [None, 0.3, 0.9, 0.9]
    assert [row.decode_tps for row in found] == [40.0, 40.0, None, None]
    assert [row.ram_bytes for row in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("slot_ctx", [256, 512, 2048, 4096, 8192, 32768, 131072])
def test_where_sizes_are_only_learned_more_room_is_left(slot_ctx: int) -> None:
    generate = min(GENERATE, slot_ctx // 32)
    loose = sizes(slot_ctx, generate, exact=False)
    assert all(size > 0 and 1.02 * size + generate < slot_ctx for size in loose)
    assert max(loose) == loose[0] == loose[3]
