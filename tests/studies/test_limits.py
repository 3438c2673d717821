"""What a server fixes for all of its loads is not asked for, and whoever asks is told where to change it."""

from __future__ import annotations

import pytest

from narthex.engines._base import Limits
from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.studies.limits import (
    automatic_batch,
    check_question,
    engines_own,
    refusal,
    settled_question,
    within,
)
from narthex.testing.study_builders import question

VARIABLE = "OLLAMA_KV_CACHE_TYPE"
WHY = f"{VARIABLE} is not set on the server"
SERVER = Limits(
    fixed={"kv_type": "f16", "flash_attn": "auto", "parallel": 1, "cpu_moe": 0},
    why={"kv_type": WHY, "parallel": "OLLAMA_NUM_PARALLEL is 1 on the server"},
    variables={"kv_type": VARIABLE, "parallel": "OLLAMA_NUM_PARALLEL"},
    one_batch=True,
)


def by_context(total_ctx: int) -> int:
    return 512 if total_ctx <= 4096 else 1024


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"parallel": 4}, ("--parallel", "4", "OLLAMA_NUM_PARALLEL")),
        ({"allow_kv": ("f16", "q8_0", "q4_0")}, ("--kv-type", "q4_0", WHY)),
        ({"pins": {"kv_type": "q8_0"}}, ("--kv-type", "q8_0", WHY)),
        ({"pins": {"cpu_moe": 4}}, ("--cpu-moe", "4")),
        ({"pins": {"batch": 512, "ubatch": 128}}, ("512", "128", "one value for both")),
        ({"current": KnobValues(kv_type="q8_0")}, ("What you run now", "q8_0")),
    ],
)
def test_what_a_load_cannot_change_is_refused_with_the_place_to_change_it(
    asked: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        check_question(question(**asked), SERVER)
    told = f"{caught.value.message} {caught.value.hint}"
    assert all(word in told for word in words), told
    check_question(question(**asked), Limits())


def test_what_nobody_asked_for_is_no_reason_to_refuse() -> None:
    check_question(question(), SERVER)
    check_question(question(pins={"kv_type": "f16", "num_ctx": 8192}), SERVER)


def test_a_server_with_more_slots_answers_a_question_that_names_none() -> None:
    four = Limits(fixed={"parallel": 4})
    assert settled_question(question(), four).parallel == 4


def test_a_kv_type_that_nobody_can_plan_for_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="q5_1") as caught:
        check_question(question(), Limits(fixed={"kv_type": "q5_1"}, variables={"kv_type": VARIABLE}))
    assert caught.value.hint == (
        f"Set {VARIABLE} on the server to f16 or q8_0 or q4_0, restart it and begin again."
    )


def test_the_way_out_names_the_variable_and_not_the_reason() -> None:
    with pytest.raises(UsageError) as caught:
        check_question(question(pins={"kv_type": "q8_0"}), SERVER)
    assert caught.value.message.endswith(f"the server runs every load with f16 ({WHY}).")
    assert caught.value.hint == f"Leave it out; or set {VARIABLE} on the server, restart it and begin again."
    with pytest.raises(UsageError) as caught:
        check_question(question(pins={"cpu_moe": 4}), SERVER)
    assert caught.value.hint == "Leave it out: this server has no such setting."


def test_one_of_the_two_batches_fixes_both() -> None:
    for name in ("batch", "ubatch"):
        assert settled_question(question(pins={name: 256}), SERVER).pins == {"batch": 256, "ubatch": 256}


def test_batch_and_micro_batch_become_one() -> None:
    both = {(1024, 512): 1024, (2048, 256): 256, (300, 300): 300, (2048, 512): 1024}
    for (batch, ubatch), expected in both.items():
        made = within(KnobValues(num_ctx=8192, batch=batch, ubatch=ubatch), SERVER, by_context)
        assert (made.batch, made.ubatch) == (expected, expected)
    assert refusal(KnobValues(batch=1024, ubatch=128), SERVER)
    assert refusal(KnobValues(batch=1024, ubatch=128), Limits()) is None


def test_the_engines_own_placement_asks_for_the_automatic_batch() -> None:
    own = engines_own(4096, 2, Limits(fixed={"parallel": 2}, one_batch=True), by_context)
    assert own == KnobValues(num_ctx=4096, gpu_layers=None, batch=1024, ubatch=1024, parallel=2)
    assert engines_own(4096, 1, Limits()) == KnobValues(num_ctx=4096)


def test_an_unknown_automatic_batch_is_the_least_one() -> None:
    assert [automatic_batch(batch, 8192) for batch in (None, 256, by_context)] == [512, 256, 1024]
