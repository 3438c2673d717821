"""Settings of a replay: those that the log was written under, and what is to be tried instead."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import Any

import msgspec

from narthex.errors import UsageError
from narthex.gateway.replay.reading import Log
from narthex.gateway.watch.starting import STEERING
from narthex.policy.records import GatewayPolicy, keys_of


def of_log(log: Log) -> GatewayPolicy:
    """The settings that its newest part was written under; the house's where none stand in it."""
    known = next((start.settings for start in reversed(log.starts) if start.settings), {})
    changes = {name: value for name, value in known.items() if name in STEERING}
    return msgspec.convert(changes, GatewayPolicy, strict=False)


def changed(settings: GatewayPolicy, words: Iterable[str]) -> GatewayPolicy:
    """With each «KEY=VALUE» laid over it. Raises UsageError."""
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        name = key.strip().replace("-", "_").removeprefix("gateway.")
        if not equals or name not in STEERING:
            raise UsageError(
                f"«{word}» is no setting that a replay can change.",
                hint=f"Write KEY=VALUE with one of {', '.join(STEERING)}; as in starvation=30s.",
            )
        kind, _ = keys_of(GatewayPolicy)[name]
        try:
            changes[name] = kind.read(_value(text.strip()))
        except (UsageError, msgspec.ValidationError) as error:
            raise UsageError(
                f"«{text}» does not go with {name}.", hint=f"Write {kind.words}, as in narthex.toml."
            ) from error
    return msgspec.structs.replace(settings, **changes)


def _value(text: str) -> Any:
    """As TOML has it; a bare word is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
