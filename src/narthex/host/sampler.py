"""``Sampler``: what an engine and its card do while a trial or a soak runs, read a few times a second.

A reading costs some tenths of a millisecond without a GPU and a few milliseconds with one. What can't be read
is ``None`` in every sample, with one gap that tells why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, TypeVar

import msgspec

from narthex.host.collect import load_1m
from narthex.host.facts import CardsBefore
from narthex.host.gpu import Nvml, engine_vram, open_nvml, read_throttle
from narthex.host.processes import busy_seconds, cpu_seconds, family, resident_bytes, runs

T = TypeVar("T", int, float)
UNSEEN = "Engine readings: the process that computes can't be seen from here."


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading. ``at_s`` counts from the sampler's start. Cards are those that the engine uses, or all
    of them where that is unknown."""

    at_s: float
    vram_bytes: int | None = None  # of the engine
    vram_card_bytes: int | None = None  # in use on its cards, by anyone
    vram_free_bytes: int | None = None  # on the fullest of its cards
    ram_bytes: int | None = None
    temperature_c: float | None = None  # of the hottest card
    power_w: float | None = None  # of its cards together
    sm_clock_mhz: int | None = None  # of the slowest card, only while it computes
    throttle_reasons: tuple[str, ...] = ()
    load_1m: float | None = None
    other_cpus: float | None = None  # CPUs' worth of work by everything else, since the reading before


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """Maxima and minima over all readings."""

    count: int
    seconds: float
    vram_bytes: int | None
    vram_card_bytes: int | None
    vram_free_min_bytes: int | None
    ram_bytes: int | None
    temperature_c: float | None
    power_w: float | None
    sm_clock_min_mhz: int | None
    throttle_reasons: tuple[str, ...]
    load_1m: float | None
    other_cpus: float | None  # mean
    gaps: tuple[str, ...]


class Sampler:
    """Reads in a thread of its own between ``__enter__`` and ``__exit__``.

    ``pid`` is the engine's process, None where it can't be seen; or a function that tells it, asked again
    whenever the process is gone: a server may load its model anew. ``before`` is the cards' state before the
    engine started (``RunningEngine.cards_before``): it stands in where the driver does not know the engine's
    process id, as in a container. With neither, the engine may be on another machine: then nothing is read,
    since this one's cards and processors say nothing about it.
    """

    def __init__(
        self,
        pid: int | Callable[[], int | None] | None,
        interval_s: float = 0.5,
        before: CardsBefore | None = None,
    ) -> None:
        self.interval_s = interval_s
        self._ask_pid = pid if callable(pid) else lambda: pid
        self._pid = self._ask_pid()
        self._seen = self._pid is not None or before is not None
        self._before = before
        self._nvml, self._no_nvml = open_nvml()
        self._cards = self._nvml.devices() if self._nvml is not None else []
        self._samples: list[Sample] = []
        self._vram_doubt: str | None = None
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._cpu_before: tuple[float, float, float] | None = None  # at, all, engine
        self._energy_start: int | None = None
        self._energy_end: int | None = None

    def __enter__(self) -> Sampler:
        self._start = time.monotonic()
        self._energy_start = self._energy()
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        self._energy_end = self._energy()

    def series(self) -> tuple[Sample, ...]:
        """Every reading so far, in time order. May be asked while it runs."""
        return tuple(self._samples)

    def latest(self) -> Sample:
        """The newest reading."""
        return self._samples[-1]

    def peaks(self) -> Samples:
        """Over every reading so far."""
        samples = self.series()
        return Samples(
            count=len(samples),
            seconds=samples[-1].at_s if samples else 0.0,
            vram_bytes=_most(sample.vram_bytes for sample in samples),
            vram_card_bytes=_most(sample.vram_card_bytes for sample in samples),
            vram_free_min_bytes=_least(sample.vram_free_bytes for sample in samples),
            ram_bytes=_most(sample.ram_bytes for sample in samples),
            temperature_c=_most(sample.temperature_c for sample in samples),
            power_w=_most(sample.power_w for sample in samples),
            sm_clock_min_mhz=_least(sample.sm_clock_mhz for sample in samples),
            throttle_reasons=tuple(sorted({why for sample in samples for why in sample.throttle_reasons})),
            load_1m=_most(sample.load_1m for sample in samples),
            other_cpus=_mean(sample.other_cpus for sample in samples),
            gaps=self._gaps(),
        )

    @property
    def vram_doubt(self) -> str | None:
        """Why ``vram_bytes`` may count what others hold; None where it is the engine's own."""
        return self._vram_doubt

    def energy_joules(self) -> float | None:
        """Energy of the cards since the start: their own counter, else power integrated over time."""
        end = self._energy_end if self._energy_end is not None else self._energy()
        if self._energy_start is not None and end is not None:
            return (end - self._energy_start) / 1000
        return integrate([(sample.at_s, sample.power_w) for sample in self._samples])

    def _run(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._sample()

    def _sample(self) -> None:
        pids = self._processes()
        if not pids and self._before is None:
            self._samples.append(Sample(at_s=time.monotonic() - self._start))
            return
        self._seen = True
        ram = [size for pid in pids if (size := resident_bytes(pid)) is not None]
        changes = self._card_readings(pids) if self._nvml is not None else {}
        sample = Sample(
            at_s=time.monotonic() - self._start,
            ram_bytes=sum(ram) if ram else None,
            load_1m=load_1m(),
            other_cpus=self._other_cpus(pids),
            **changes,
        )
        self._samples.append(sample)

    def _processes(self) -> frozenset[int]:
        """The engine's processes now; none where it can't be seen."""
        if self._pid is None or not runs(self._pid):
            newer = self._ask_pid()
            if newer is not None and newer != self._pid:
                self._pid, self._cpu_before = newer, None
        return family(self._pid) if self._pid is not None else frozenset()

    def _card_readings(self, pids: frozenset[int]) -> dict[str, Any]:
        nvml = self._nvml
        assert nvml is not None
        held = engine_vram(nvml, pids, self._before)
        self._vram_doubt = held.doubt
        cards = [card for index, card in enumerate(self._cards) if index in held.cards] or self._cards
        memory = [row for card in cards if (row := nvml.ask("nvmlDeviceGetMemoryInfo", card)) is not None]
        return {
            "vram_bytes": held.bytes,
            "vram_card_bytes": sum(row.used for row in memory) if memory else None,
            "vram_free_bytes": min((row.free for row in memory), default=None),
            "temperature_c": _most(nvml.ask("nvmlDeviceGetTemperature", card, 0) for card in cards),
            "power_w": _power(nvml, cards),
            "sm_clock_mhz": _least(_busy_clock(nvml, card) for card in cards),
            "throttle_reasons": tuple(sorted({why for card in cards for why in read_throttle(nvml, card)})),
        }

    def _other_cpus(self, pids: frozenset[int]) -> float | None:
        if not pids:
            return None  # the engine's own work would count as that of others
        busy = busy_seconds()
        own = sum(cpu_seconds(pid) or 0.0 for pid in pids)
        if busy is None:
            return None
        now, before = (time.monotonic(), busy, own), self._cpu_before
        self._cpu_before = now
        if before is None or now[0] - before[0] < 0.05:  # the kernel counts in hundredths of a second
            return None
        if own < before[2]:  # a process of ours ended: its work would count as that of others
            return None
        return max(0.0, (now[1] - before[1] - (now[2] - before[2])) / (now[0] - before[0]))

    def _energy(self) -> int | None:
        """Millijoules that all cards count; None where one of them does not."""
        if self._nvml is None or not self._cards or not self._seen:
            return None
        counters = [self._nvml.ask("nvmlDeviceGetTotalEnergyConsumption", card) for card in self._cards]
        return sum(counters) if all(counter is not None for counter in counters) else None

    def _gaps(self) -> tuple[str, ...]:
        if not self._seen:
            return (UNSEEN,)
        if self._nvml is None:
            return (f"GPU readings: {self._no_nvml}.",)
        gaps = self._nvml.gaps()
        return gaps if self._vram_doubt is None else (*gaps, self._vram_doubt)


def integrate(points: Iterable[tuple[float, float | None]]) -> float | None:
    """The area under (seconds, watts) points, in joules, by trapezoids; None below two points."""
    known = [(at, value) for at, value in points if value is not None]
    if len(known) < 2:
        return None
    return sum((then[0] - at[0]) * (then[1] + at[1]) / 2 for at, then in pairwise(known))


def _power(nvml: Nvml, cards: list[Any]) -> float | None:
    watts = [
        value / 1000 for card in cards if (value := nvml.ask("nvmlDeviceGetPowerUsage", card)) is not None
    ]
    return sum(watts) if watts else None


def _busy_clock(nvml: Nvml, card: Any) -> int | None:
    """The SM clock while the card computes: an idle card clocks down, which says nothing."""
    use = nvml.ask("nvmlDeviceGetUtilizationRates", card)
    clock: int | None = nvml.ask("nvmlDeviceGetClockInfo", card, 1)
    return clock if use is not None and use.gpu >= 10 else None


def _known(values: Iterable[T | None]) -> list[T]:
    return [value for value in values if value is not None]


def _pick(choose: Callable[[list[T]], T], values: Iterable[T | None]) -> T | None:
    known = _known(values)
    return choose(known) if known else None


def _most(values: Iterable[T | None]) -> T | None:
    return _pick(max, values)


def _least(values: Iterable[T | None]) -> T | None:
    return _pick(min, values)


def _mean(values: Iterable[float | None]) -> float | None:
    return _pick(lambda known: sum(known) / len(known), values)
