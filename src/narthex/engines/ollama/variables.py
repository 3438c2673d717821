"""The variables of a server by name, and their values as Ollama and its runner read them."""

from __future__ import annotations

from collections.abc import Mapping

from narthex.memory.plan import FIT_TARGET as USUAL_FIT_TARGET
from narthex.units import MIB

CONTEXT_LENGTH = "OLLAMA_CONTEXT_LENGTH"
FLASH_ATTENTION = "OLLAMA_FLASH_ATTENTION"
KEEP_ALIVE = "OLLAMA_KEEP_ALIVE"
KV_CACHE_TYPE = "OLLAMA_KV_CACHE_TYPE"
NUM_PARALLEL = "OLLAMA_NUM_PARALLEL"
RUNNERS = "LLAMA_ARG_"
"""What llama-server's own variables begin with; they reach it through Ollama's environment."""
CACHE_RAM = f"{RUNNERS}CACHE_RAM"
CPU_MOE = f"{RUNNERS}N_CPU_MOE"
FIT_TARGET = f"{RUNNERS}FIT_TARGET"

OF_KNOBS = {
    "kv_type": KV_CACHE_TYPE,
    "flash_attn": FLASH_ATTENTION,
    "parallel": NUM_PARALLEL,
    "cpu_moe": CPU_MOE,
}
"""Knobs that a server has once for all of its loads, and what sets them."""
USUAL_CACHE_RAM = 8192 * MIB
"""The usual size of a runner's prompt cache (llama-server's --cache-ram)."""


def fit_target(env: Mapping[str, str]) -> int | None:
    """Bytes that llama-server's own placement leaves free on the first card; None for what is no number."""
    return _mib(env.get(FIT_TARGET, ""), USUAL_FIT_TARGET)


def cache_ram(env: Mapping[str, str]) -> int | None:
    """Bytes of main memory that each runner keeps prompts in; None for what is no plain number, as −1."""
    return _mib(env.get(CACHE_RAM, ""), USUAL_CACHE_RAM)


def context_length(env: Mapping[str, str]) -> int | None:
    """The context where neither a request nor the model says one; None where the variable doesn't either."""
    return count(env, CONTEXT_LENGTH) or None


def count(env: Mapping[str, str], name: str) -> int | None:
    """A variable that is a plain whole number; None where it is not set, or something else."""
    text = env.get(name, "")
    return int(text) if text.isdecimal() else None


def _mib(text: str, usual: int) -> int | None:
    """Bytes of a variable in MiB, of a list the first; ``usual`` where it is not set."""
    first = text.split(",", maxsplit=1)[0].strip()
    if not first:
        return usual
    return int(first) * MIB if first.isdecimal() else None
