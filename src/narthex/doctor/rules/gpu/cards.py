"""Which kind of GPU a name stands for: one with memory of its own, or one beside the processor."""

from __future__ import annotations

import re

_INTEGRATED = re.compile(
    r"llvmpipe|\bU?HD Graphics|Iris|RaptorLake|AlderLake|MeteorLake|Radeon(?:\(TM\))? Graphics|Raphael|Renoir"
    r"|Arc(?:\(TM\))? (?:Graphics|1\d\d)|Radeon(?:\(TM\))? \d{3,4}[MS]\b|Radeon(?:\(TM\))? Vega \d+ Graphics",
    re.IGNORECASE,
)
_DISCRETE = re.compile(
    r"NVIDIA|GeForce|Quadro|Tesla|Radeon(?:\(TM\))? (?:RX|Pro)|Arc(?:\(TM\))? [AB]\d|Instinct", re.IGNORECASE
)
# NVIDIA's own chips that share the machine's memory.
_SHARED = re.compile(r"\bGB10\b|Tegra|Jetson|\bOrin\b|\bThor\b|Xavier", re.IGNORECASE)


def is_integrated(name: str) -> bool:
    """Whether the name is that of an integrated GPU, or of one made of software."""
    return _INTEGRATED.search(name) is not None


def is_discrete(name: str) -> bool:
    """Whether it is that of a card with memory of its own."""
    return _DISCRETE.search(name) is not None and not _SHARED.search(name) and not is_integrated(name)
