"""What a server's variables mean."""

from __future__ import annotations

import pytest

from narthex.engines.ollama import variables
from narthex.units import GIB, MIB


@pytest.mark.parametrize(
    ("value", "target"), [("", GIB), ("512", 512 * MIB), ("256,512", 256 * MIB), ("half", None)]
)
def test_of_several_cards_the_firsts_room_counts(value: str, target: int | None) -> None:
    assert variables.fit_target({variables.FIT_TARGET: value}) == target


@pytest.mark.parametrize(("value", "size"), [("", 8 * GIB), ("0", 0), ("2048", 2 * GIB), ("-1", None)])
def test_the_prompt_cache_has_a_size_or_no_limit(value: str, size: int | None) -> None:
    assert variables.cache_ram({variables.CACHE_RAM: value}) == size


@pytest.mark.parametrize(("value", "ctx"), [("8192", 8192), ("0", None), ("", None), ("8k", None)])
def test_a_context_of_nothing_is_none(value: str, ctx: int | None) -> None:
    assert variables.context_length({variables.CONTEXT_LENGTH: value}) == ctx


def test_what_is_not_set_is_no_number() -> None:
    assert variables.count({}, variables.NUM_PARALLEL) is None
