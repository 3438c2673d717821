"""A watch in a thread of its own, for tests that write logs meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from narthex.doctor.collect.places import LogPlace
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.doctor.rules import RULES, SIGNS
from narthex.doctor.watch import Watched, watch

WAIT_S = 30.0


class Watching:
    """A context manager; what the watch tells is kept."""

    def __init__(self, *sources: LogPlace, probe: Callable[[], Sequence[Reading]] | None = None) -> None:
        self.findings: list[tuple[Finding, int]] = []
        self.notes: list[str] = []
        self.result: Watched | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(sources, probe))

    def _run(self, sources: Sequence[LogPlace], probe: Any) -> None:
        self.result = watch(
            sources,
            RULES,
            SIGNS,
            on_finding=lambda finding, count: self.findings.append((finding, count)),
            on_note=self.notes.append,
            stop=self._stop,
            probe=probe,
            poll_s=0.2,
        )

    def causes(self) -> list[tuple[str, int]]:
        """What was told, with how often it had come up."""
        return [(finding.cause, count) for finding, count in self.findings]

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds."""
        end = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end, f"told: {self.causes()}, notes: {self.notes}"
            time.sleep(0.02)

    def noted(self, words: str) -> bool:
        """Whether a note with these words came."""
        return any(words in note for note in self.notes)

    def __enter__(self) -> Watching:
        self._thread.start()
        self.until(lambda: self.noted("Watching "))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> Watched:
        """End it; how it went."""
        self._stop.set()
        self._thread.join(WAIT_S)
        assert self.result is not None
        return self.result


def append(path: Path, *lines: str) -> None:
    """Whole lines at the end of a file."""
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
