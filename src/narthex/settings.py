"""The settings of narthex itself, declared once.

One :class:`Setting` row yields its environment variable, the row of ``narthex settings`` and the docs row.
Read one with ``settings.get("soak")``. The engine's own settings are knobs, see :mod:`narthex.knobs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec

from narthex import paths
from narthex.errors import UsageError
from narthex.knobs import BY_NAME, parse_knob
from narthex.units import format_duration, format_size, parse_duration, parse_size


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. ``default`` makes the value that holds when nothing is set."""

    name: str
    env: str
    help: str
    parse: Callable[[str], Any]
    default: Callable[[], Any]
    show: Callable[[Any], str] = str
    default_words: str = ""  # for the docs, where the value depends on the machine


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A setting's value at this moment, and where it came from: "default" or "environment"."""

    setting: Setting
    value: Any
    source: str

    @property
    def text(self) -> str:
        """The value as a person reads it; «–» where there is none."""
        return "–" if self.value is None else self.setting.show(self.value)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _knob_names(text: str) -> tuple[str, ...]:
    names = _words(text)
    for name in names:
        if name not in BY_NAME:
            raise UsageError(f"There is no knob «{name}».", hint="Knobs are: " + ", ".join(BY_NAME) + ".")
    return names


def _kv_types(text: str) -> tuple[str, ...]:
    return tuple(parse_knob("kv_type", word) for word in _words(text))


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise UsageError(f"«{text}» is not a count.", hint="Write a whole number of 1 or more.")
    return int(text)


def _join(values: tuple[str, ...]) -> str:
    return ",".join(values)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="llama_server",
        env="NARTHEX_LLAMA_SERVER",
        help="The llama-server to use. Without it: PATH, an Ollama install's lib folder, the embedded wheel.",
        parse=str,
        default=lambda: None,
        default_words="searched for",
    ),
    Setting(
        name="data",
        env="NARTHEX_DATA",
        help="Folder of the journal.",
        parse=str,
        default=lambda: str(paths.data_dir()),
        default_words="~/.local/share/narthex",
    ),
    Setting(
        name="cache",
        env="NARTHEX_CACHE",
        help="Folder of what can be made again, as the demo's model.",
        parse=str,
        default=lambda: str(paths.cache_dir()),
        default_words="~/.cache/narthex",
    ),
    Setting(
        name="state",
        env="NARTHEX_STATE",
        help="Folder of engine logs and crash reports.",
        parse=str,
        default=lambda: str(paths.state_dir()),
        default_words="~/.local/state/narthex",
    ),
    Setting(
        name="soak",
        env="NARTHEX_SOAK",
        help="How long a setting must survive before it counts as proven.",
        parse=parse_duration,
        default=lambda: 150.0,
        show=format_duration,
        default_words="150s",
    ),
    Setting(
        name="reserve",
        env="NARTHEX_RESERVE",
        help="VRAM that stays free. Without it: 128 MiB and the growth seen in soaks. Tenants come on top.",
        parse=parse_size,
        default=lambda: None,
        show=format_size,
        default_words="128 MiB and what was seen",
    ),
    Setting(
        name="backoff",
        env="NARTHEX_BACKOFF",
        help="After a failure one knob at a time gives way, in this order.",
        parse=_knob_names,
        default=lambda: ("num_ctx", "gpu_layers", "batch"),
        show=_join,
        default_words="num_ctx,gpu_layers,batch",
    ),
    Setting(
        name="allow_kv",
        env="NARTHEX_ALLOW_KV",
        help="KV cache types that a study may use; below q8_0 answers get worse.",
        parse=_kv_types,
        default=lambda: ("f16", "q8_0"),
        show=_join,
        default_words="f16,q8_0",
    ),
    Setting(
        name="repeats",
        env="NARTHEX_REPEATS",
        help="Timed turns in one trial.",
        parse=_count,
        default=lambda: 3,
        default_words="3",
    ),
    Setting(
        name="house_ctx",
        env="NARTHEX_HOUSE_CTX",
        help="Context of the house defaults in a trial by hand; in a study they get the context asked for.",
        parse=_count,
        default=lambda: 4096,
        default_words="4096",
    ),
    Setting(
        name="house_gpu_layers",
        env="NARTHEX_HOUSE_GPU_LAYERS",
        help="GPU layers of the house defaults.",
        parse=_count,
        default=lambda: 19,
        default_words="19",
    ),
    Setting(
        name="house_batch",
        env="NARTHEX_HOUSE_BATCH",
        help="Batch of the house defaults.",
        parse=_count,
        default=lambda: 256,
        default_words="256",
    ),
)

BY_SETTING = {setting.name: setting for setting in SETTINGS}


def resolve(name: str) -> Value:
    """A setting's value with its source. Raises UsageError where the environment holds nonsense."""
    setting = BY_SETTING[name]
    text = os.environ.get(setting.env, "").strip()
    if not text:
        return Value(setting=setting, value=setting.default(), source="default")
    try:
        return Value(setting=setting, value=setting.parse(text), source="environment")
    except UsageError as error:
        raise UsageError(f"{setting.env}: {error.message}", hint=error.hint) from error


def get(name: str) -> Any:
    """A setting's value: the environment's, else the default."""
    return resolve(name).value
