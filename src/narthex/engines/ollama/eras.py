"""The six eras of Ollama, and every fact that depends on its version. Such facts live here and nowhere else.

Read from Ollama's history up to 0.33.0-rc2 (August 2026): a version is the first release that holds the
change. Only era F was also seen on a real server.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import msgspec

from narthex.units import GIB


class Version(NamedTuple):
    """A release; what stands behind the numbers (``-rc2``, ``-3-gabcdef``) is of that release already."""

    major: int
    minor: int
    patch: int


NEWEST = Version(9999, 0, 0)  # a self-built Ollama calls itself 0.0.0

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


def parse_version(text: str) -> Version:
    """From ``0.33.0-rc2`` or ``v0.5.1``. ``0.0.0``, or a text without numbers, counts as the newest: whoever
    builds it builds what is current."""
    found = _VERSION.search(text)
    if not found or not any(int(part or 0) for part in found.groups()):
        return NEWEST
    return Version(int(found[1]), int(found[2]), int(found[3] or 0))


SizeMeans = Literal["estimate", "layout", "log"]


class Era(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which Ollama computes, and tells of it."""

    letter: str
    words: str  # "0.5.8 to 0.11.4"
    since: Version
    # What size and size_vram of /api/ps are: predicted before the load ("estimate"), what was allotted to the
    # devices ("layout"; before 0.12.11 only for models of Ollama's own engine, else predicted), or the sum of
    # the runner's own log lines ("log").
    size_means: SizeMeans


ERAS: tuple[Era, ...] = (
    Era(letter="A", words="up to 0.1.31", since=Version(0, 0, 0), size_means="estimate"),
    Era(letter="B", words="0.1.32 to 0.3.14", since=Version(0, 1, 32), size_means="estimate"),
    Era(letter="C", words="0.4.0 to 0.5.7", since=Version(0, 4, 0), size_means="estimate"),
    Era(letter="D", words="0.5.8 to 0.11.4", since=Version(0, 5, 8), size_means="estimate"),
    Era(letter="E", words="0.11.5 to 0.24.0", since=Version(0, 11, 5), size_means="layout"),
    Era(letter="F", words="0.30.0 and later", since=Version(0, 30, 0), size_means="log"),
)


def era_of(version: str) -> Era:
    """The era of a version as ``/api/version`` tells it."""
    number = parse_version(version)
    return next(era for era in reversed(ERAS) if number >= era.since)


class Feature(NamedTuple):
    """What a version can do, from ``since`` on, and before ``until`` where it went away."""

    since: Version
    until: Version | None = None


FEATURES: dict[str, Feature] = {
    "ps": Feature(Version(0, 1, 38)),  # /api/ps
    "model_info": Feature(Version(0, 1, 45)),  # GGUF metadata in /api/show
    # OLLAMA_GPU_OVERHEAD keeps video memory free
    "gpu_overhead": Feature(Version(0, 3, 10), until=Version(0, 30, 0)),
    "kv_cache_type": Feature(Version(0, 5, 0)),  # OLLAMA_KV_CACHE_TYPE
    "json_create": Feature(Version(0, 5, 5)),  # /api/create takes from and parameters
    "context_length": Feature(Version(0, 5, 13)),  # OLLAMA_CONTEXT_LENGTH
    "show_tensors": Feature(Version(0, 6, 1)),  # tensors in /api/show
    "capabilities": Feature(Version(0, 6, 4)),  # capabilities in /api/show
    "flash_auto": Feature(Version(0, 12, 11)),  # flash attention where it works, unless told otherwise
    "truncate": Feature(Version(0, 12, 6)),  # a request may say that its prompt is not to be cut
    "vram_tiers": Feature(Version(0, 15, 5)),  # the default context depends on the video memory
    "automatic_batch": Feature(Version(0, 30, 0)),  # num_batch follows the context
    "fit": Feature(Version(0, 30, 0)),  # llama-server places the layers; LLAMA_ARG_* reach it
    "logits_for_slots": Feature(Version(0, 30, 0)),  # the runner is a llama-server, whose buffers are small
    "prompt_cache_ram": Feature(Version(0, 30, 0)),  # each runner keeps old prompts in main memory
}


def has(version: str, feature: str) -> bool:
    """Whether that version has it; a name of :data:`FEATURES`."""
    number, found = parse_version(version), FEATURES[feature]
    return number >= found.since and (found.until is None or number < found.until)


def since(feature: str) -> str:
    """The first version that has it, for people: ``0.5.5``."""
    return ".".join(str(part) for part in FEATURES[feature].since)


def automatic_batch(version: str, total_ctx: int) -> int:
    """What num_batch becomes where none is asked for. ``total_ctx`` counts all slots.

    Of a completion model with enough free memory: Ollama takes less where the memory is short, and 512 on
    CUDA without flash attention; the load's own log line tells what it took.
    """
    if not has(version, "automatic_batch") or total_ctx <= 4096:
        return 512
    return 1024 if total_ctx <= 32768 else 2048


_FLAT_4096 = Version(0, 6, 7)
_TIERS = ((47 * GIB, 262_144), (23 * GIB, 32_768))


def default_ctx(version: str, total_vram_bytes: int | None) -> int:
    """num_ctx where neither a request, the model nor OLLAMA_CONTEXT_LENGTH says one.

    ``total_vram_bytes`` is what the server counted when it started, OLLAMA_GPU_OVERHEAD taken off; unknown
    counts as little. Ollama cuts the result to what the model was trained for.
    """
    if parse_version(version) < _FLAT_4096:
        return 2048
    if not has(version, "vram_tiers"):
        return 4096
    return next((ctx for floor, ctx in _TIERS if (total_vram_bytes or 0) >= floor), 4096)


_PARALLEL = ((Version(0, 10, 0), 1), (Version(0, 6, 7), 2), (Version(0, 2, 0), 4), (Version(0, 0, 0), 1))


def default_parallel(version: str) -> int:
    """Slots where OLLAMA_NUM_PARALLEL is not set. 0.2.0 to 0.9.x fall back to 1 where the memory is short."""
    number = parse_version(version)
    return next(slots for first, slots in _PARALLEL if number >= first)
