"""What the machine did during one trial: peaks, energy, other programs, and the doubts that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from narthex.engines._base import RunningEngine
from narthex.host.limits import logical_cores, physical_cores
from narthex.host.sampler import Sample, Sampler, Samples
from narthex.trials.observation import Peaks
from narthex.trials.roofline import Bandwidth
from narthex.units import MIB, format_size

BUSY_CPUS = 0.5
BUSY_SHARE = 0.1
"""Work of other programs that may have slowed the engine: so many CPUs, and this share of all of them."""
TENANT_CHANGE = 64 * MIB
"""A change of other programs' GPU memory which tells that they were active."""


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes brought home."""

    peaks: Peaks = Peaks()
    joules: float | None = None  # during the timed turns
    doubts: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()


class Probes:
    """Watches one engine while it works; use it as a context manager, around the turns."""

    def __init__(self, engine: RunningEngine) -> None:
        self._sampler = Sampler(lambda: engine.pid, before=engine.cards_before)
        self._joules: float | None = None

    def __enter__(self) -> Probes:
        self._sampler.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sampler.__exit__(*exc)

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Only the energy used inside counts."""
        before = self._sampler.energy_joules()
        yield
        after = self._sampler.energy_joules()
        self._joules = after - before if before is not None and after is not None else None

    def read(self) -> Readings:
        """All that was seen, after the context manager was left."""
        seen = self._sampler.peaks()
        return Readings(
            peaks=peaks(seen),
            joules=self._joules,
            doubts=doubts(seen, self._sampler.series()),
            gaps=seen.gaps,
        )


def peaks(seen: Samples) -> Peaks:
    """The part of the sampler's summary that an observation keeps."""
    return Peaks(
        vram_bytes=seen.vram_bytes,
        vram_card_bytes=seen.vram_card_bytes,
        vram_free_min_bytes=seen.vram_free_min_bytes,
        ram_bytes=seen.ram_bytes,
        temperature_c=seen.temperature_c,
        power_w=seen.power_w,
        sm_clock_min_mhz=seen.sm_clock_min_mhz,
        load_1m=seen.load_1m,
    )


def others_busy(seen: Samples) -> bool:
    """Whether other programs worked enough to slow the engine."""
    return seen.other_cpus is not None and seen.other_cpus > max(BUSY_CPUS, BUSY_SHARE * logical_cores())


def doubts(seen: Samples, series: Iterable[Sample]) -> tuple[str, ...]:
    """What else went on: other programs on the CPU or the card, and throttling."""
    found = []
    if others_busy(seen):
        found.append(f"other programs used {seen.other_cpus:.1f} CPUs meanwhile")
    others = [
        sample.vram_card_bytes - sample.vram_bytes
        for sample in series
        if sample.vram_card_bytes is not None and sample.vram_bytes is not None
    ]
    if others and max(others) - min(others) > TENANT_CHANGE:
        found.append(
            f"other programs' GPU memory changed by {format_size(max(others) - min(others))} meanwhile"
        )
    if seen.throttle_reasons:
        found.append(f"the GPU was throttled: {', '.join(seen.throttle_reasons)}")
    return tuple(found)


def machine_bandwidth() -> tuple[Bandwidth, tuple[str, ...]]:
    """What this machine's memories can give, and gaps. The slowest card counts where there are several."""
    from narthex.host.gpu import read_gpus
    from narthex.trials.bandwidth import cpu_bandwidth

    cards, _, _ = read_gpus(processes=False)
    known = [card.bandwidth_bytes_s for card in cards if card.bandwidth_bytes_s is not None]
    gpu = min(known) if known and len(known) == len(cards) else None
    gaps = (
        ("GPU bandwidth: the driver does not tell bus width or memory clock.",)
        if cards and gpu is None
        else ()
    )
    return Bandwidth(gpu=gpu, cpu=cpu_bandwidth(physical_cores() or 1)), gaps
