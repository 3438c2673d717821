"""The settings of narthex itself, declared once.

One :class:`Setting` row yields its environment variable, its key in ``narthex.toml``, the row of
``narthex settings`` and the docs row. Read one with ``settings.get("soak")``. A command's flag goes before
the environment, that before the file, that before the default. The engine's own settings are knobs, see
:mod:`narthex.knobs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from narthex import paths
from narthex.errors import UsageError
from narthex.policy import find_config, kinds, load_policy
from narthex.units import format_duration, format_size, parse_duration, parse_size


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. ``default`` makes the value that holds when nothing is set."""

    name: str
    env: str
    help: str
    parse: Callable[[str], Any]
    default: Callable[[], Any]
    show: Callable[[Any], str] = str
    toml: str = ""  # its key in narthex.toml; "": it can't be set there
    default_words: str = ""  # for the docs, where the value depends on the machine


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A setting's value at this moment, and where it came from: "default", "environment" or its place
    in the file, as in "narthex.toml: policy.soak"."""

    setting: Setting
    value: Any
    source: str

    @property
    def text(self) -> str:
        """The value as a person reads it; «–» where there is none."""
        return "–" if self.value is None else self.setting.show(self.value)


def _number(text: str, least: int = 1) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise UsageError(f"«{text}» is not a count.", hint=f"Write a whole number of {least} or more.")
    return int(text)


def _layers(text: str) -> int:
    return _number(text, least=0)


def _order(text: str) -> tuple[str, ...]:
    return kinds.knob_order(kinds.split_words(text))


def _kv_types(text: str) -> tuple[str, ...]:
    return kinds.kv_types(kinds.split_words(text))


def _config() -> str | None:
    path = find_config()
    return str(path) if path else None


def _join(values: tuple[str, ...]) -> str:
    return ",".join(values)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="config",
        env="NARTHEX_CONFIG",
        help="The file with the house policy. Without it: ./narthex.toml, then the user's own.",
        parse=lambda text: str(Path(text).expanduser()),
        default=_config,
        default_words="./narthex.toml, ~/.config/narthex/narthex.toml",
    ),
    Setting(
        name="ollama_host",
        env="OLLAMA_HOST",
        toml="ollama.host",
        help="Address of Ollama. Without it: containers and the usual address are asked.",
        parse=str,
        default=lambda: None,
        default_words="searched for",
    ),
    Setting(
        name="ollama_log",
        env="NARTHEX_OLLAMA_LOG",
        toml="ollama.log",
        help="Where Ollama's log is: docker:NAME, journal:UNIT or file:PATH. Without it: searched for.",
        parse=kinds.log_place,
        default=lambda: None,
        default_words="searched for",
    ),
    Setting(
        name="ollama_wait",
        env="NARTHEX_OLLAMA_WAIT",
        toml="ollama.wait",
        help="How long a study waits for an Ollama that went down before it stops; it can go on later.",
        parse=parse_duration,
        default=lambda: 600.0,
        show=format_duration,
        default_words="10m",
    ),
    Setting(
        name="gateway",
        env="NARTHEX_GATEWAY",
        toml="gateway.listen",
        help="The gateway that commands which measure ask for the card, if it runs. «off»: none is asked.",
        parse=str,
        default=lambda: "http://127.0.0.1:11435",
        default_words="http://127.0.0.1:11435",
    ),
    Setting(
        name="gateway_key",
        env="NARTHEX_GATEWAY_KEY",
        help="The key for it, where it asks for one. Without it: the first of the file in gateway.keys.",
        parse=str,
        default=lambda: "",
        show=lambda value: "set" if value else "not set",
        default_words="the first in gateway.keys",
    ),
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
        toml="policy.soak",
        help="How long a setting must survive before it counts as proven.",
        parse=parse_duration,
        default=lambda: 150.0,
        show=format_duration,
        default_words="150s",
    ),
    Setting(
        name="reserve",
        env="NARTHEX_RESERVE",
        toml="policy.reserve",
        help="VRAM that stays free. Without it: 128 MiB and the growth seen in soaks. Tenants come on top.",
        parse=parse_size,
        default=lambda: None,
        show=format_size,
        default_words="128 MiB and what was seen",
    ),
    Setting(
        name="backoff",
        env="NARTHEX_BACKOFF",
        toml="policy.backoff",
        help="After a failure one knob at a time gives way, in this order.",
        parse=_order,
        default=lambda: ("num_ctx", "gpu_layers", "batch"),
        show=_join,
        default_words="num_ctx,gpu_layers,batch",
    ),
    Setting(
        name="grow",
        env="NARTHEX_GROW",
        toml="policy.grow",
        help="«ctx»: a context rises one step only after a soak at its present value. «off»: it stays.",
        parse=kinds.growth,
        default=lambda: "",
        show=lambda value: value or "off",
        default_words="off",
    ),
    Setting(
        name="allow_kv",
        env="NARTHEX_ALLOW_KV",
        toml="policy.allow_kv",
        help="KV cache types that a study may use; below q8_0 answers get worse.",
        parse=_kv_types,
        default=lambda: ("f16", "q8_0"),
        show=_join,
        default_words="f16,q8_0",
    ),
    Setting(
        name="repeats",
        env="NARTHEX_REPEATS",
        toml="policy.repeats",
        help="Timed turns in one trial.",
        parse=_number,
        default=lambda: 3,
        default_words="3",
    ),
    Setting(
        name="house_ctx",
        env="NARTHEX_HOUSE_CTX",
        toml="defaults.num_ctx",
        help="Context of the house defaults in a trial by hand; in a study they get the context asked for.",
        parse=_number,
        default=lambda: 4096,
        default_words="4096",
    ),
    Setting(
        name="house_gpu_layers",
        env="NARTHEX_HOUSE_GPU_LAYERS",
        toml="defaults.num_gpu",
        help="GPU layers of the house defaults.",
        parse=_layers,
        default=lambda: 19,
        default_words="19",
    ),
    Setting(
        name="house_batch",
        env="NARTHEX_HOUSE_BATCH",
        toml="defaults.num_batch",
        help="Batch of the house defaults.",
        parse=_number,
        default=lambda: 256,
        default_words="256",
    ),
)

BY_SETTING = {setting.name: setting for setting in SETTINGS}


def resolve(name: str) -> Value:
    """A setting's value with its source. Raises UsageError where one of them holds nonsense."""
    setting = BY_SETTING[name]
    text = os.environ.get(setting.env, "").strip()
    if text:
        return Value(setting=setting, value=_parsed(setting, text), source="environment")
    if setting.toml:
        policy = load_policy()
        value = policy.value(setting.toml)
        if value is not None and policy.path is not None:
            return Value(setting=setting, value=value, source=f"{Path(policy.path).name}: {setting.toml}")
    return Value(setting=setting, value=setting.default(), source="default")


def get(name: str) -> Any:
    """A setting's value: the environment's, else the file's, else the default."""
    return resolve(name).value


def _parsed(setting: Setting, text: str) -> Any:
    try:
        return setting.parse(text)
    except UsageError as error:
        raise UsageError(f"{setting.env}: {error.message}", hint=error.hint) from error
