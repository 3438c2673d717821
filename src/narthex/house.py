"""Where a model starts by the house policy: its own table in ``narthex.toml``, else the house defaults.

A setting from the environment goes before both, so that one run can be told otherwise.
"""

from __future__ import annotations

from typing import Any

from narthex import settings
from narthex.knobs import KnobValues
from narthex.policy import ModelPolicy, load_policy
from narthex.units import sentence


def house_knobs(
    name: str, *, layers: int | None = None, has_gpu: bool = True, threads: int | None = None
) -> KnobValues:
    """The start point of one model, by the name it is called by; the house defaults for any other.

    ``layers`` is the model's count without the output layer: more than all are never asked for. ``threads``
    holds where the policy says nothing. Batch and micro-batch are one value, as they are in Ollama.
    Raises UsageError where ``narthex.toml`` or the environment holds nonsense.
    """
    model = load_policy().for_model(name)
    batch = _value("house_batch", model.num_batch)
    wanted = _value("house_gpu_layers", model.num_gpu) if has_gpu else 0
    return KnobValues(
        num_ctx=_value("house_ctx", model.num_ctx),
        gpu_layers=wanted if layers is None else min(wanted, layers + 1),
        batch=batch,
        ubatch=batch,
        threads=model.num_thread or threads,
    )


def backoff_order(name: str) -> tuple[str, ...]:
    """Which knob gives way first for this model."""
    order: tuple[str, ...] = _value("backoff", load_policy().for_model(name).backoff)
    return order


def growth(name: str) -> str:
    """«ctx» where this model's context may rise after a soak, else ""."""
    word: str = _value("grow", load_policy().for_model(name).grow)
    return word


def model_notes(name: str) -> tuple[str, ...]:
    """What the policy has to say to a person about this model, a sentence each."""
    model = load_policy().for_model(name)
    return tuple(_sentences(model))


def _sentences(model: ModelPolicy) -> list[str]:
    rows = []
    if model.role:
        rows.append(f"Role: {model.role}.")
    if model.note:
        rows.append(sentence(model.note))
    if model.removal and model.removal != model.note:
        rows.append(sentence(f"A candidate for removal: {model.removal}"))
    elif model.removal:
        rows.append("A candidate for removal.")
    return rows


def _value(setting: str, own: Any) -> Any:
    """The environment's, else the model's own, else the house's."""
    found = settings.resolve(setting)
    return own if own is not None and found.source != "environment" else found.value
