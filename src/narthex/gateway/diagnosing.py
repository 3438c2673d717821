"""From an engine's words and log to a :class:`Trouble`: by exact words, else by the doctor's rules.

The doctor is imported on the first failure, in the thread that needs it: a gateway that meets none neither
waits for it nor keeps its rules in memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from narthex.engines.llama_exit import clean, telling_line
from narthex.gateway.causes import AGAIN_S, BY_OUTCOME, MEMORY, OTHERS, PASSING, STATUS
from narthex.gateway.known_errors import known_error
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.outcomes import Outcome
from narthex.units import format_size, sentence

if TYPE_CHECKING:
    from narthex.doctor.finding import Diagnosis, Finding

LOG_BYTES = 256 * 1024  # of each log its end: read by all rules in some 60 ms
_MOST_EVIDENCE = 4
_WHY_LETTERS = 400
_SAID_LETTERS = 300
_LOOKS = ("nvidia-smi", "ps ", "journalctl", "free ", "dmesg", "ls ", "sudo dmesg", "ollama ps")


async def diagnosed(
    words: str,
    status: int | None,
    log: Sequence[tuple[str, bytes]] = (),
    *,
    model: str,
    offer: Offer | None = None,
    outcome: Outcome | None = None,
    free_bytes: int | None = None,
    requested_bytes: int | None = None,
) -> Trouble:
    """Why it failed. ``words``: what the engine or the connection said; ``status``: of the engine's answer,
    None where none came. ``log``: name and text of each log, of which the end is read. ``outcome``: what the
    engine's own module judged. ``free_bytes`` and ``requested_bytes``: of the memory in question."""
    if (known := known_error(words, status, model=model, offer=offer)) is not None:
        return known
    case = _Case(
        words=words,
        status=status,
        log=log,
        model=model,
        offer=offer,
        outcome=outcome,
        free_bytes=free_bytes,
        requested_bytes=requested_bytes,
    )
    return await asyncio.to_thread(case.trouble)


_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_HEX = 64


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One failure."""

    words: str
    status: int | None
    log: Sequence[tuple[str, bytes]]
    model: str
    offer: Offer | None
    outcome: Outcome | None
    free_bytes: int | None
    requested_bytes: int | None

    def trouble(self) -> Trouble:
        """By the doctor's first finding that can be the reason, else by the outcome, else in general."""
        refused = self.status is not None and 400 <= self.status < 500 and self.outcome is None
        finding = None if refused else self._finding()
        if finding is not None:
            return self._of_finding(finding)
        if self.outcome in BY_OUTCOME:
            return self._of_outcome(self.outcome)
        return self._in_general()

    def _finding(self) -> Finding | None:
        from narthex.doctor.finding import SURE

        found = [row for row in self._examined().findings if row.is_trouble and row.confidence >= SURE]
        wanted = MEMORY if self.outcome is not None and self.outcome.is_memory else (*MEMORY, *OTHERS)
        if self.outcome in (Outcome.CORRUPT_FILE, Outcome.UNSUPPORTED_ARCHITECTURE):
            wanted = OTHERS
        fitting = [row for row in found if row.cause in wanted and not self._of_another(row)]
        return next(iter(fitting), None)

    def _of_another(self, finding: Finding) -> bool:
        """Whether its lines name model files, and not this one."""
        return of_another_file(" ".join(quote.text for quote in finding.evidence), self.offer)

    def _examined(self) -> Diagnosis:
        from narthex.doctor.diagnose import diagnose
        from narthex.doctor.reading.kinds import kind_of_text
        from narthex.doctor.reading.scanner import read_evidence
        from narthex.doctor.reading.text import Text
        from narthex.doctor.rules import RULES, SIGNS

        texts = [Text(kind="client_error", name="the answer", data=self.words.encode())] if self.words else []
        for name, data in self.log:
            tail = _tail(data)
            sample = (tail[:8192].decode("utf-8", "replace"), tail[-8192:].decode("utf-8", "replace"))
            texts.append(Text(kind=kind_of_text(sample, name), name=name, data=tail))
        return diagnose(read_evidence(texts, SIGNS), RULES)

    def _of_finding(self, finding: Finding) -> Trouble:
        steps = [row for row in finding.remedy.commands if not row.text.startswith(_LOOKS)][:2]
        told = "; ".join(row.text.replace("MODEL", self.model) for row in steps)
        remedy = sentence(finding.remedy.text) + (f" First: {sentence(told)}" if told else "")
        quotes = tuple(quote.text.strip()[:500] for quote in finding.evidence[:_MOST_EVIDENCE])
        return self._made(finding.cause, _short(finding.why), remedy, quotes)

    def _of_outcome(self, outcome: Outcome) -> Trouble:
        cause, way = BY_OUTCOME[outcome]
        remedy = way.format(model=self.model, plan=f"narthex plan {self.model}")
        line = self._line()
        return self._made(cause, line, remedy, (line,) if line else ())

    def _in_general(self) -> Trouble:
        line = self._line()
        said = line or "the engine said nothing, and its log has no line about it"
        status = self.status if self.status is not None and 400 <= self.status < 500 else None
        if status is not None:
            message = f"The engine of «{self.model}» refused the request ({status}): {sentence(said)}"
            return Trouble(status, "engine_refused", message, evidence=(said,))
        way = "Try again; where it fails again, `narthex doctor` reads the logs of the machine."
        if self.status is None:
            return self._made("connection_lost", said, way, (line,) if line else (), status=502)
        return self._made("engine_failed", said, way, (line,) if line else (), status=500)

    def _made(
        self, cause: str, why: str, remedy: str, quotes: tuple[str, ...], *, status: int | None = None
    ) -> Trouble:
        return Trouble(
            status or STATUS.get(cause, 503),
            cause,
            f"«{self.model}»: {self._with_figures(why)}",
            remedy=remedy,
            retry_after_s=AGAIN_S.get(cause),
            lasting=cause not in PASSING and status is None,
            figures=self._figures(),
            evidence=quotes,
        )

    def _with_figures(self, why: str) -> str:
        """The sentence, and in brackets the figures that it lacks."""
        parts = []
        if self.requested_bytes and format_size(self.requested_bytes) not in why:
            parts.append(f"{format_size(self.requested_bytes)} were asked for")
        if self.free_bytes is not None and "free" not in why and self._is_memory():
            parts.append(f"{format_size(self.free_bytes)} were free before")
        if self._is_memory() and (asked := self._asked()):
            parts.append(f"its setting: {asked}")
        return sentence(f"{why.rstrip('.')} ({'; '.join(parts)})" if parts else why)

    def _is_memory(self) -> bool:
        return self.requested_bytes is not None or (self.outcome is not None and self.outcome.is_memory)

    def _asked(self) -> str:
        if self.offer is None:
            return ""
        if self.offer.knobs is not None:
            return self.offer.knobs.describe()
        told = ", ".join(f"{name} {value}" for name, value in self.offer.options.items())
        return told or (f"num_ctx {self.offer.num_ctx}" if self.offer.num_ctx else "")

    def _figures(self) -> dict[str, int]:
        rows = {
            "requested_bytes": self.requested_bytes,
            "free_bytes": self.free_bytes,
            "num_ctx": self.offer.num_ctx if self.offer is not None else None,
            "need_bytes": self.offer.need_bytes if self.offer is not None else None,
        }
        return {name: value for name, value in rows.items() if value is not None}

    def _line(self) -> str:
        """What tells most: of the answer, else of the newest log."""
        if self.words.strip():
            lines = self.words.strip().splitlines()
            return (telling_line(lines) or clean(lines[0]))[:_SAID_LETTERS]
        for _, data in self.log:
            lines = _tail(data).decode("utf-8", "replace").splitlines()
            if line := telling_line(lines):
                return line[:_SAID_LETTERS]
        return ""


def of_another_file(text: str, offer: Offer | None) -> bool:
    """Whether these lines name model files, and not this offer's: a log tells of all that a server does."""
    own = offer.twin.rpartition(":")[2] if offer is not None else ""
    named = set(_BLOB.findall(text))
    return len(own) == _HEX and bool(named) and own not in named


def _tail(data: bytes) -> bytes:
    """The end of a log, from a line's beginning on."""
    if len(data) <= LOG_BYTES:
        return data
    return data[-LOG_BYTES:].partition(b"\n")[2]


def _short(why: str) -> str:
    """Whole sentences, as many as fit."""
    if len(why) <= _WHY_LETTERS:
        return why
    cut = why[:_WHY_LETTERS]
    end = max((found.start() + 1 for found in re.finditer(r"[.!?](?= )", cut)), default=0)
    return cut[:end] if end else f"{cut.rstrip()}…"
