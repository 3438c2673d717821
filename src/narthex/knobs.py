"""The engine settings that may be turned, declared once.

One :class:`Knob` row yields the command-line option, the docs row and the search range; an engine's
module says how it writes the knob. :class:`KnobValues` is one full setting.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from narthex.errors import UsageError
from narthex.units import format_count

Kind = Literal["int", "layers", "choice"]


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table: the name in :class:`KnobValues`, and how a person gives it."""

    name: str
    flag: str
    kind: Kind
    help: str
    unit: str = ""
    minimum: int = 0
    choices: tuple[str, ...] = ()


KNOBS: tuple[Knob, ...] = (
    Knob(
        name="num_ctx",
        flag="--ctx",
        kind="int",
        minimum=1,
        unit="tokens",
        help="Context length of one slot; the engine gets this times --parallel.",
    ),
    Knob(
        name="gpu_layers",
        flag="--gpu-layers",
        kind="layers",
        unit="layers",
        help="Layers on the GPU, the output layer counted; «max» is all, «auto» lets the engine choose.",
    ),
    Knob(
        name="batch",
        flag="--batch",
        kind="int",
        minimum=1,
        unit="tokens",
        help="Logical batch: prompt tokens submitted at once.",
    ),
    Knob(
        name="ubatch",
        flag="--ubatch",
        kind="int",
        minimum=1,
        unit="tokens",
        help="Micro-batch: prompt tokens computed at once; it sets the size of the compute buffers.",
    ),
    Knob(
        name="kv_type",
        flag="--kv-type",
        kind="choice",
        choices=("f16", "q8_0", "q4_0"),
        help="Element type of the KV cache, keys and values alike.",
    ),
    Knob(
        name="flash_attn",
        flag="--flash-attn",
        kind="choice",
        choices=("on", "off", "auto"),
        help="Flash attention; a quantised KV cache needs it.",
    ),
    Knob(
        name="parallel",
        flag="--parallel",
        kind="int",
        minimum=1,
        unit="slots",
        help="Requests served at the same time, each with its own context.",
    ),
    Knob(
        name="threads",
        flag="--threads",
        kind="int",
        minimum=1,
        unit="threads",
        help="CPU threads; never more than physical cores.",
    ),
    Knob(
        name="cpu_moe",
        flag="--cpu-moe",
        kind="int",
        unit="layers",
        help="Mixture of experts: the first N layers keep their experts on the CPU.",
    ),
    Knob(
        name="mmap",
        flag="--mmap",
        kind="choice",
        choices=("auto", "on", "off"),
        help="Weights in main memory: mapped from the file, or read into memory of their own.",
    ),
)

BY_NAME = {knob.name: knob for knob in KNOBS}


class KnobValues(msgspec.Struct, frozen=True, kw_only=True):
    """One full setting. ``None`` means that the engine decides.

    ``gpu_layers`` counts the output layer as llama.cpp does: ``layers + 1`` is everything.
    """

    num_ctx: int = 4096
    gpu_layers: int | None = None
    batch: int = 2048
    ubatch: int = 512
    kv_type: str = "f16"
    flash_attn: str = "auto"
    parallel: int = 1
    threads: int | None = None
    cpu_moe: int = 0
    mmap: str = "auto"

    def with_(self, **changes: Any) -> KnobValues:
        """A copy with some knobs turned."""
        return msgspec.structs.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, in the table's order."""
        return {knob.name: getattr(self, knob.name) for knob in KNOBS}

    def difference(self, other: KnobValues) -> dict[str, tuple[Any, Any]]:
        """Knobs that differ: name → (value here, value there)."""
        mine, theirs = self.as_dict(), other.as_dict()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def describe(self) -> str:
        """One short line: ``ctx 8192 · layers 65 · batch 512/128 · kv q8_0 · flash on``."""
        layers = "auto" if self.gpu_layers is None else str(self.gpu_layers)
        parts = [
            f"ctx {self.num_ctx}",
            f"layers {layers}",
            f"batch {self.batch}/{self.ubatch}",
            f"kv {self.kv_type}",
            f"flash {self.flash_attn}",
        ]
        if self.parallel != 1:
            parts.append(f"slots {self.parallel}")
        if self.threads is not None:
            parts.append(f"threads {self.threads}")
        if self.cpu_moe:
            parts.append(f"experts of {format_count(self.cpu_moe, 'layer')} on CPU")
        if self.mmap != "auto":
            parts.append(f"mmap {self.mmap}")
        return " · ".join(parts)


def parse_knob(name: str, text: str, *, layers: int | None = None) -> Any:
    """One knob's value from what a person typed. Raises UsageError.

    ``layers`` is the model's layer count without the output layer; it turns «max» into a number.
    """
    knob = BY_NAME.get(name)
    if knob is None:
        raise UsageError(f"There is no knob «{name}».", hint="Knobs are: " + ", ".join(BY_NAME) + ".")
    word = text.strip().lower()
    if knob.kind == "choice":
        if word not in knob.choices:
            raise UsageError(f"{knob.flag} can't be «{text}».", hint="Use " + ", ".join(knob.choices) + ".")
        return word
    if knob.kind == "layers" and word in ("max", "all"):
        if layers is None:
            raise UsageError("«max» needs a model to count the layers of.", hint="Give a number of layers.")
        return layers + 1
    if word == "auto" and knob.name in ("gpu_layers", "threads"):
        return None
    if not word.isdecimal() or int(word) < knob.minimum or int(word) >= 2**31:
        raise UsageError(
            f"{knob.flag} can't be «{text}».",
            hint=f"Give a whole number from {knob.minimum} to {2**31 - 1:,}.",
        )
    return int(word)
