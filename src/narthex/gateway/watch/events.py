"""``Events``: what happens besides requests, as lines for a person or a log collector, and in the journal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from narthex.errors import JournalError
from narthex.gateway.watch.batches import Batches
from narthex.journal.journal import Journal
from narthex.journal.rows import GatewayEventDraft

PAUSE_S = 1.0  # between two writes to the journal; a write to the terminal waits for nothing


def to_stderr(text: str) -> None:
    """One write for a whole batch of lines."""
    sys.stderr.write(text)
    sys.stderr.flush()


class Events:
    """One gateway's. ``journaled`` False: nothing goes to the journal, as in a test."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        journaled: bool = True,
        write: Callable[[str], None] = to_stderr,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._as_json, self._out = as_json, write
        self._lines: Batches[str] = Batches(self._print, pause_s=0.0)
        self._rows: Batches[GatewayEventDraft] = Batches(
            self._keep, pause_s=pause_s, say=lambda text: self.say("journal", text)
        )
        self._journaled = journaled
        self._refused = False  # whether the journal took nothing; said once

    def say(self, kind: str, text: str = "", **fields: Any) -> None:
        """One line. Fields that are None or empty are left out."""
        shown = {key: value for key, value in fields.items() if value not in (None, "", (), [])}
        self._lines.add(_json(kind, text, shown) if self._as_json else _line(kind, text, shown))

    def keep(self, kind: str, text: str = "", **fields: Any) -> None:
        """One line, and a row in the journal. ``model``, ``profile``, ``client`` and ``cause`` have columns
        there; the other fields are its body."""
        self.say(kind, text, **fields)
        if self._journaled:
            known = {name: fields.pop(name, None) or "" for name in ("model", "profile", "client", "cause")}
            body = {key: value for key, value in fields.items() if value not in (None, "", (), [])}
            self._rows.add(
                GatewayEventDraft(
                    at=time.time(),
                    kind=kind,
                    model=known["model"],
                    profile=known["profile"] or None,
                    client=known["client"],
                    cause=known["cause"],
                    text=text,
                    body=msgspec.json.encode(body, enc_hook=str),
                )
            )

    async def close(self) -> None:
        """Write what is left."""
        await self._rows.close()
        await self._lines.close()

    def _print(self, lines: list[str], lost: int) -> str:
        if lost:
            lines.append(
                _line("log", f"{lost} lines were left out: they came faster than they were read.", {})
            )
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more; the gateway goes on
            self._out("".join(lines))
        return ""

    def _keep(self, rows: list[GatewayEventDraft], lost: int) -> str:
        try:
            with Journal.open() as journal:
                journal.append_gateway_events(rows)
        except JournalError as error:
            known, self._refused = self._refused, True
            return "" if known else f"{error.message} {error.hint}"
        self._refused = False
        return ""


def _line(kind: str, text: str, fields: dict[str, Any]) -> str:
    """``2026-11-22T10:00:00Z loaded model=big:32b seconds=20.1 …``"""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    pairs = " ".join(f"{key}={_value(value)}" for key, value in fields.items())
    return " ".join(part for part in (stamp, kind, pairs, _plain(text)) if part) + "\n"


def _json(kind: str, text: str, fields: dict[str, Any]) -> str:
    row = {"at": time.time(), "event": kind, **fields, **({"text": text} if text else {})}
    return msgspec.json.encode(row, enc_hook=str).decode() + "\n"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        value = ",".join(str(one) for one in value)
    word = _plain(str(value))
    return f'"{word}"' if " " in word or not word else word


def _plain(text: str) -> str:
    """On one line, and no character that steers a terminal: names and words come from outside."""
    return "".join(char if char.isprintable() else " " for char in text.replace('"', "'")).strip()
