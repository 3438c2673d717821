"""Which graph belongs to which architecture.

``RECIPES`` says how an architecture differs from the plain transformer; each row was read off its file in
``src/models`` of llama.cpp b11434. An architecture without a row is planned as a plain transformer with
whatever its tensors show, and the plan says that it is only bounded.
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.memory.blocks import Setup, Weights
from narthex.memory.transformer import Recipe, Transformer
from narthex.models.inspection import Inspection

_GEMMA = Recipe(scaled_input=True, scaled_queries=True)

RECIPES: dict[str, Recipe] = {
    "llama": Recipe(),
    "qwen2": Recipe(),
    "qwen3": Recipe(),
    "qwen3moe": Recipe(),
    "gemma3": _GEMMA._replace(post_norms=True),
}


def is_known(architecture: str) -> bool:
    """Whether the graph of an architecture is known, not guessed."""
    return architecture in RECIPES


def builder(inspection: Inspection, setup: Setup, weight: Weights, home: Callable[[int], int]) -> Transformer:
    """The builder of a model's graph."""
    made = Transformer(inspection, setup, weight, home)
    made.recipe = RECIPES.get(inspection.architecture, Recipe())
    return made
