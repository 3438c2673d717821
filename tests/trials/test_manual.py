"""The manual loop: one knob at a time, from a known start."""

from __future__ import annotations

import pytest

from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.trials.manual import difference_words, fitted, read_settings, turned
from narthex.trials.trial import Turn


def test_a_knob_goes_by_its_name_or_its_flag() -> None:
    words = ("gpu_layers=max", "kv-type=q8_0", "--ctx=8192")
    assert read_settings(words, layers=18) == {"gpu_layers": 19, "kv_type": "q8_0", "num_ctx": 8192}


@pytest.mark.parametrize("word", ["ctx", "speed=9", "ctx=many", "kv_type=q2"])
def test_nonsense_is_a_usage_error(word: str) -> None:
    with pytest.raises(UsageError):
        read_settings((word,), layers=18)


def test_one_turned_knob_is_fine() -> None:
    assert turned(KnobValues(), {"batch": 256}, many=False) == KnobValues(batch=256)


def test_a_knob_set_to_what_it_is_counts_as_not_turned() -> None:
    settings = {"batch": KnobValues().batch, "num_ctx": 8192}
    assert turned(KnobValues(), settings, many=False).num_ctx == 8192


def test_two_turned_knobs_are_refused_and_listed() -> None:
    with pytest.raises(UsageError, match=r"num_ctx 4096 → 8192, batch 2048 → 256"):
        turned(KnobValues(), {"batch": 256, "num_ctx": 8192}, many=False)


def test_many_allows_it() -> None:
    assert turned(KnobValues(), {"batch": 256, "num_ctx": 8192}, many=True).batch == 256


def test_the_engines_own_choice_is_called_auto() -> None:
    changes = KnobValues(gpu_layers=30).difference(KnobValues())
    assert difference_words(changes) == ["gpu_layers auto → 30"]


def test_a_turn_that_fits_stays() -> None:
    assert fitted(Turn(), 8192) == Turn()


def test_a_smaller_context_takes_from_the_depth_first() -> None:
    assert fitted(Turn(), 2048) == Turn(depth=2048 - 512 - 256)


@pytest.mark.parametrize("num_ctx", [2, 64, 700])
def test_a_tiny_context_still_gets_a_turn(num_ctx: int) -> None:
    turn = fitted(Turn(), num_ctx)
    assert turn.depth + turn.prompt_tokens + turn.generate <= num_ctx
    assert min(turn.prompt_tokens, turn.generate) >= 1


def test_max_needs_a_model() -> None:
    with pytest.raises(UsageError, match="needs a model"):
        read_settings(("gpu_layers=max",), layers=None)
