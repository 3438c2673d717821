"""The sampler on this machine, and its arithmetic."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from narthex.host.facts import CardsBefore
from narthex.host.gpu import open_nvml
from narthex.host.sampler import UNSEEN, Sample, Sampler, integrate


def test_it_reads_while_it_is_open() -> None:
    with Sampler(os.getpid(), interval_s=0.02) as sampler:
        time.sleep(0.3)
        assert sampler.latest().ram_bytes
    samples = sampler.series()
    assert len(samples) > 3
    assert [sample.at_s for sample in samples] == sorted(sample.at_s for sample in samples)
    peaks = sampler.peaks()
    assert peaks.count == len(samples)
    assert peaks.ram_bytes == max(sample.ram_bytes or 0 for sample in samples)


def test_the_engines_own_work_is_not_the_work_of_others() -> None:
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    sleep = subprocess.Popen(["sleep", "1000"])
    with Sampler(spin.pid, interval_s=0.2) as busy, Sampler(sleep.pid, interval_s=0.2) as idle:
        time.sleep(1.0)
    spin.kill()
    sleep.kill()
    beside_busy, beside_idle = busy.peaks().other_cpus, idle.peaks().other_cpus
    assert beside_busy is not None
    assert beside_idle is not None
    assert beside_idle > beside_busy + 0.1


def test_work_of_an_engine_that_ended_is_not_the_work_of_others() -> None:
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    with Sampler(spin.pid, interval_s=0.2) as sampler:
        time.sleep(0.5)
        spin.kill()
        spin.wait()
        time.sleep(0.5)
    cores = os.cpu_count() or 1
    assert all(sample.other_cpus is None or sample.other_cpus < cores + 0.5 for sample in sampler.series())


def test_growing_memory_shows() -> None:
    words = "import time; a = []\nfor _ in range(40): a.append(b'x' * 2**20); time.sleep(.01)\ntime.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", words]) as process:
        with Sampler(process.pid, interval_s=0.05) as sampler:
            until = time.monotonic() + 30  # on a busy machine it starts late
            while grown(sampler) < 20 * 2**20 and time.monotonic() < until:
                time.sleep(0.1)
        process.kill()
    assert grown(sampler) > 20 * 2**20


def grown(sampler: Sampler) -> int:
    sizes = [sample.ram_bytes or 0 for sample in sampler.series()]
    return max(sizes) - min(sizes)


def test_an_engine_that_ends_meanwhile_does_no_harm() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    with Sampler(process.pid, interval_s=0.02) as sampler:
        process.wait()
        time.sleep(0.1)
    assert sampler.latest().ram_bytes is None


def test_an_engine_that_is_elsewhere_has_no_readings_of_this_machine() -> None:
    with Sampler(None, interval_s=0.02) as sampler:
        time.sleep(0.05)
    for sample in sampler.series():
        assert sample == Sample(at_s=sample.at_s)
    assert sampler.energy_joules() is None
    assert sampler.peaks().gaps == (UNSEEN,)


def test_behind_a_container_only_the_engines_own_processes_are_unknown() -> None:
    with Sampler(None, interval_s=0.02, before=CardsBefore(used_bytes=(), pids=frozenset())) as sampler:
        time.sleep(0.05)
    assert sampler.latest().load_1m is not None
    assert sampler.latest().ram_bytes is None
    assert sampler.peaks().other_cpus is None  # the engine's own work can't be told from that of others
    assert UNSEEN not in sampler.peaks().gaps


def test_an_engine_that_loads_anew_is_followed() -> None:
    running = [subprocess.Popen(["sleep", "1000"])]
    with Sampler(lambda: running[-1].pid, interval_s=0.02) as sampler:
        first = sampler.latest().ram_bytes
        running[0].kill()
        running[0].wait()
        running.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]))
        until = time.monotonic() + 30
        while (sampler.latest().ram_bytes or 0) <= 2 * (first or 0) and time.monotonic() < until:
            time.sleep(0.02)
    running[1].kill()
    assert first
    assert (sampler.latest().ram_bytes or 0) > 2 * first
    assert all(sample.other_cpus is None or sample.other_cpus >= 0 for sample in sampler.series())


def test_without_a_card_its_readings_are_unknown_with_one_gap() -> None:
    if open_nvml()[0] is not None:
        pytest.skip("this machine has NVML")
    with Sampler(os.getpid(), interval_s=0.02) as sampler:
        time.sleep(0.05)
    peaks = sampler.peaks()
    assert (peaks.vram_bytes, peaks.vram_card_bytes, peaks.temperature_c, peaks.power_w) == (None,) * 4
    assert sampler.energy_joules() is None
    assert len(peaks.gaps) == 1


def test_power_becomes_energy() -> None:
    assert integrate([(0, 100.0), (1, 100.0), (3, 200.0)]) == 100 + 300
    assert integrate([(0, 100.0), (1, None), (2, 100.0)]) == 200
    assert integrate([(0, 100.0)]) is None
    assert integrate([]) is None
