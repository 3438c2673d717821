"""What an Ollama was started with: settings that hold for every model and load until it starts anew.

The log's «server config» line has the effective values, defaults included; the environment of the process or
the container has only what was set. Flash attention needs both: the line says ``false`` also for «not set».
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narthex.engines._base import Limits
from narthex.engines.ollama import eras
from narthex.engines.ollama.log import last_load_command, server_config
from narthex.engines.ollama.records import Server
from narthex.engines.ollama.variables import (
    CACHE_RAM,
    CPU_MOE,
    FIT_TARGET,
    FLASH_ATTENTION,
    KV_CACHE_TYPE,
    NUM_PARALLEL,
    OF_KNOBS,
    RUNNERS,
    USUAL_CACHE_RAM,
    cache_ram,
    context_length,
    count,
)

_PREFIXES = (
    "OLLAMA_",
    RUNNERS,
    "CUDA_VISIBLE_",
    "NVIDIA_VISIBLE_",
    "ROCR_",
    "HIP_",
    "HSA_",
    "GPU_DEVICE_ORDINAL",
    "GGML_VK_",
)
_SECRET = ("KEY", "TOKEN", "PASSWORD", "SECRET")
START_LINES = 2000  # within these a start says what it found, at OLLAMA_DEBUG=2 too
_FALSE = ("0", "f", "false")  # as Go reads a boolean; any other text counts as true
# llama-server's own variables for what Ollama always passes as a flag have no effect.
_OVERRULED = {
    f"{RUNNERS}{name}"
    for name in ("MODEL", "HOST", "PORT", "CTX_SIZE", "N_PARALLEL", "FLASH_ATTN", "BATCH", "UBATCH", "RPC")
}
_KNOWN = {
    f"{RUNNERS}FIT": "autofit",
    FIT_TARGET: "fit",
    CPU_MOE: "cpu_moe",
    CACHE_RAM: "cache_ram",
}
_SHOWN_IN_KV = (f"{RUNNERS}CACHE_TYPE_K", f"{RUNNERS}CACHE_TYPE_V")
_SINCE = {"kv_type": "kv_cache_type", "cpu_moe": "fit"}  # knob → what an Ollama must have for it


def effective_env(lines: Sequence[str], raw: Mapping[str, str]) -> dict[str, str]:
    """The server's settings from its last start's log lines and from the environment it was given.

    ``raw`` is empty where that can't be read. Without either the result is empty: unknown.
    """
    found = server_config(lines[:START_LINES])
    if found.get(FLASH_ATTENTION, "").lower() in _FALSE:
        said_so = bool(raw.get(FLASH_ATTENTION)) if raw else _runner_went_without(lines)
        found = {name: value for name, value in found.items() if said_so or name != FLASH_ATTENTION}
    env = {**{name: value for name, value in raw.items() if name not in found}, **found}
    return {name: value for name, value in sorted(env.items()) if value and _tells(name)}


def limits_of(env: Mapping[str, str], version: str) -> Limits:
    """The knobs that are the same for every load on a server with these settings."""
    return Limits(
        fixed={
            "kv_type": _kv_type(env, version),
            "flash_attn": _flash(env, version),
            "parallel": _parallel(env, version),
            "cpu_moe": _cpu_moe(env, version),
        },
        why={knob: _why(env, version, knob) for knob in OF_KNOBS},
        variables={knob: name for knob, name in OF_KNOBS.items() if _counts(version, knob)},
        one_batch=True,
    )


def _counts(version: str, knob: str) -> bool:
    feature = _SINCE.get(knob)
    return feature is None or eras.has(version, feature)


def _why(env: Mapping[str, str], version: str, knob: str) -> str:
    name = OF_KNOBS[knob]
    if not _counts(version, knob):
        return f"Ollama reads {name} since {eras.since(_SINCE[knob])}"
    below = _SHOWN_IN_KV[0] if name == KV_CACHE_TYPE else name
    told = next((each for each in (name, below) if env.get(each)), None)
    return f"{told} is {env[told]} on the server" if told else f"{name} is not set on the server"


def variant_of(env: Mapping[str, str], version: str) -> str:
    """What is not as Ollama has it by itself: ``kv=q8_0 flash=on slots=2 ctx=8192 fit=512``."""
    words: dict[str, Any] = {
        "kv": _other(_kv_type(env, version), "f16"),
        "flash": _other(_flash(env, version), _flash({}, version)),
        "slots": _other(_parallel(env, version), eras.default_parallel(version)),
        "ctx": context_length(env) if eras.has(version, "context_length") else None,
        "overhead": count(env, "OLLAMA_GPU_OVERHEAD") if eras.has(version, "gpu_overhead") else None,
        "spread": "on" if _is_true(env.get("OLLAMA_SCHED_SPREAD")) else None,
        "library": env.get("OLLAMA_LLM_LIBRARY"),
        **_runner_words(env, version),
    }
    return " ".join(f"{word}={value}" for word, value in words.items() if value)


def prompt_cache_bytes(env: Mapping[str, str], version: str) -> int:
    """Main memory that each runner may fill with old prompts: LLAMA_ARG_CACHE_RAM in MiB, 8 GiB where it is
    not set; −1 for no limit is taken as that too, since then nothing can be told."""
    if not eras.has(version, "prompt_cache_ram"):
        return 0
    told = cache_ram(env)
    return USUAL_CACHE_RAM if told is None else told


def visible_cards(server: Server, count: int, uuids: Sequence[str], gpus: Sequence[str] | None) -> list[int]:
    """Indices of this machine's cards that the server can use, in its order.

    ``gpus``: what its container asked for (:attr:`docker.Found.gpus`); None for no container.
    """
    cards = list(range(count))
    for text in gpus if gpus is not None else ():
        cards = cards[: int(text[1:])] if text.startswith("×") else _picked(text, cards, uuids)
    if gpus is not None and not gpus:
        return []
    return _picked(server.env.get("CUDA_VISIBLE_DEVICES", "all"), cards, uuids)


def _picked(text: str, cards: list[int], uuids: Sequence[str]) -> list[int]:
    """What a list of indices or GPU ids leaves; «all» leaves everything, «-1» or «none» nothing."""
    if text in ("all", ""):
        return cards
    found = []
    for word in text.split(","):
        name = word.strip()
        if name.isdecimal() and int(name) < len(cards):
            found.append(cards[int(name)])
        else:
            found += [card for card in cards if name.startswith("GPU-") and uuids[card].startswith(name)]
    return found


def _kv_type(env: Mapping[str, str], version: str) -> str:
    if not eras.has(version, "kv_cache_type"):
        return "f16"
    below = env.get(f"{RUNNERS}CACHE_TYPE_K", "") if eras.has(version, "fit") else ""
    return (env.get(KV_CACHE_TYPE, "") or below or "f16").lower()


def _flash(env: Mapping[str, str], version: str) -> str:
    if text := env.get(FLASH_ATTENTION):
        return "on" if _is_true(text) else "off"
    return "auto" if eras.has(version, "flash_auto") else "off"


def _parallel(env: Mapping[str, str], version: str) -> int:
    return count(env, NUM_PARALLEL) or eras.default_parallel(version)


def _cpu_moe(env: Mapping[str, str], version: str) -> int:
    return (count(env, CPU_MOE) or 0) if eras.has(version, "fit") else 0


def _runner_words(env: Mapping[str, str], version: str) -> dict[str, str]:
    """llama-server's variables that reach it, known ones by a short name."""
    if not eras.has(version, "fit"):
        return {}
    passed = {
        name: value
        for name, value in sorted(env.items())
        if name.startswith(RUNNERS) and name not in _OVERRULED and name not in _SHOWN_IN_KV
    }
    return {_KNOWN.get(name, name.removeprefix(RUNNERS).lower()): value for name, value in passed.items()}


def _runner_went_without(lines: Sequence[str]) -> bool:
    command = last_load_command(lines)
    return command is not None and command.flash_attn == "off"


def _other(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def _is_true(text: str | None) -> bool:
    return bool(text) and str(text).lower() not in _FALSE


def _tells(name: str) -> bool:
    return name.startswith(_PREFIXES) and not any(word in name for word in _SECRET)
