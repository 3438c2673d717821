"""Runs the collectors, all at once, each within its own time, and makes evidence of what they bring.

A collector is a module with ``NAME``, ``TIME_S`` and ``collect(scope) -> Collected``. It reads and changes
nothing, needs no root, and says what root would add. One that takes too long or breaks is told and holds up
no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from narthex.doctor.collect import (
    comfyui,
    container_logs,
    containers,
    devices,
    disks,
    docker,
    driver,
    gpu,
    journal,
    kernel_log,
    logs,
    memory,
    modules,
    ollama,
    openwebui,
    pci,
    ports,
    processor,
    proxies,
)
from narthex.doctor.collect.collected import Collected, together
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Skipped
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.sign import Sign

__all__ = ["COLLECTORS", "Collected", "Collector", "Scope", "evidence_of", "gather", "live_evidence"]


class Collector(Protocol):
    """What a collector's module offers."""

    NAME: str  # «kernel modules»
    TIME_S: float  # after so long it is left alone

    def collect(self, scope: Scope, /) -> Collected:
        """Look, and tell."""
        ...


HOST: tuple[Collector, ...] = (  # the machine, its cards, Docker
    modules,
    pci,
    devices,
    driver,
    gpu,
    processor,
    memory,
    disks,
    kernel_log,
    ports,
    proxies,
    docker,
    containers,
    container_logs,
)
SERVICES: tuple[Collector, ...] = (  # what runs on it, its logs, and the journal of narthex
    ollama,
    openwebui,
    comfyui,
    logs,
    journal,
)
COLLECTORS: tuple[Collector, ...] = (*HOST, *SERVICES)


class _Run:
    """One collector at work in a thread that the end of the program does not wait for."""

    def __init__(self, collector: Collector, scope: Scope) -> None:
        self.collector, self._scope = collector, scope
        self._result: Collected | None = None
        self._broke = ""
        self._thread = threading.Thread(target=self._work, name=f"collect {collector.NAME}", daemon=True)
        self._until = time.monotonic() + collector.TIME_S
        self._thread.start()

    def result(self) -> Collected:
        """What it brought, at the latest when its time is over."""
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._result is not None:
            return self._result
        if not self._broke:
            self._scope.children.end(self._thread.ident)
        limit = f"can't tell, because it took longer than {self.collector.TIME_S:g} s"
        gap = Skipped(what=self.collector.NAME, why=self._broke or limit, broke=bool(self._broke))
        return Collected(skipped=(gap,))

    def _work(self) -> None:
        try:
            self._result = self.collector.collect(self._scope)
        except Exception as error:  # one collector's fault must not hide what the others see
            self._broke = f"the collector broke: {type(error).__name__}: {error}"


def gather(
    scope: Scope,
    only: Collection[str] | None = None,
    collectors: Sequence[Collector] | None = None,
) -> Collected:
    """Everything that the collectors see now. ``only``: names of those to run; None for all."""
    table = COLLECTORS if collectors is None else collectors
    runs = [_Run(collector, scope) for collector in table if only is None or collector.NAME in only]
    return together(run.result() for run in runs)


def live_evidence(scope: Scope, signs: Sequence[Sign]) -> Evidence:
    """What rules look at on this machine, now."""
    return evidence_of(gather(scope), signs)


def evidence_of(found: Collected, signs: Sequence[Sign]) -> Evidence:
    """What was found just now, searched."""
    return read_evidence(
        found.texts,
        signs,
        readings=found.readings,
        facts=found.facts,
        skipped=found.skipped,
        live=True,
    )
