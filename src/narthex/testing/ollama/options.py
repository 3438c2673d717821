"""Request options: names, types and defaults, and what of them a runner is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from narthex.testing.ollama.log import Log

_INTEGERS = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "num_keep",
    "num_predict",
    "seed",
    "top_k",
    "repeat_last_n",
    "draft_num_predict",
)
_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_TYPES: dict[str, str] = {
    **dict.fromkeys(_INTEGERS, "integer"),
    **dict.fromkeys(_FLOATS, "float32"),
    "use_mmap": "boolean",
    "stop": "array",
}
_SAMPLING = {
    "num_keep": 4,
    "seed": -1,
    "num_predict": -1,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "temperature": 0.8,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class WrongOption(Exception):
    """A value of the wrong type, with Ollama's words."""


@dataclass(frozen=True)
class Wanted:
    """What one request asks for. ``ctx_auto`` and ``batch_auto``: nobody gave the value."""

    num_ctx: int
    ctx_auto: bool
    num_batch: int = 512
    batch_auto: bool = True
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int = 0
    shift: bool = True
    sampling: dict[str, Any] = field(default_factory=lambda: dict(_SAMPLING))


def read_options(
    params: Mapping[str, Any], given: Mapping[str, Any], *, env_ctx: int, tier_ctx: int, log: Log
) -> Wanted:
    """Defaults, then the Modelfile's parameters, then the request's options. Raises WrongOption."""
    values: dict[str, Any] = {}
    for source in (params, given):
        for name, value in source.items():
            if name not in _TYPES:
                log.warn("invalid option provided", option=name)
            elif value is not None:
                values[name] = _typed(name, value)
    ctx_auto = "num_ctx" not in values and not env_ctx
    return Wanted(
        num_ctx=values.get("num_ctx", env_ctx or tier_ctx),
        ctx_auto=ctx_auto,
        num_batch=values.get("num_batch", 512),
        batch_auto="num_batch" not in values,
        num_gpu=values.get("num_gpu", -1),
        main_gpu=values.get("main_gpu"),
        use_mmap=values.get("use_mmap"),
        num_thread=values.get("num_thread", 0),
        draft_num_predict=values.get("draft_num_predict", 0),
        sampling={**_SAMPLING, **{k: v for k, v in values.items() if k in _SAMPLING or k == "stop"}},
    )


def _typed(name: str, value: Any) -> Any:
    kind = _TYPES[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer" and number:
        return int(value)
    if kind == "float32" and number:
        return float(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "array" and isinstance(value, list):
        return [str(item) for item in value]
    raise WrongOption(f'option "{name}" must be of type {kind}')
