"""The machine in one record."""

from __future__ import annotations

import msgspec

from narthex.host.collect import collect_host, cpu_model, host_key, load_1m, read_memory
from narthex.host.facts import GpuFacts
from narthex.units import GIB

CARD = GpuFacts(index=0, uuid="GPU-1", name="RTX", total_bytes=20 * GIB, free_bytes=GIB, used_bytes=19 * GIB)


def test_everything_is_known_or_has_a_gap() -> None:
    host = collect_host()
    assert host.hostname
    assert "Linux" in host.os
    assert 0 < host.ram_available_bytes <= host.ram_total_bytes
    assert host.gpus or any(gap.startswith("GPUs: ") for gap in host.gaps)
    assert host.physical_cores is not None or any(gap.startswith("Cores: ") for gap in host.gaps)


def test_the_record_can_be_written_and_read() -> None:
    host = collect_host()
    assert msgspec.json.decode(msgspec.json.encode(host), type=type(host)) == host


def test_a_program_with_a_memory_limit_has_no_more_than_that() -> None:
    host = collect_host()
    assert host.within(None) == host
    assert host.within(host.ram_total_bytes * 2) == host
    small = host.within(1 << 20)
    assert (small.ram_total_bytes, small.ram_available_bytes) == (1 << 20, 1 << 20)


def test_single_readings() -> None:
    total, available = read_memory()
    assert 0 < available <= total
    assert cpu_model() is None or cpu_model()
    load = load_1m()
    assert load is None or load >= 0


def test_the_key_stays_while_the_machine_runs() -> None:
    assert collect_host().key == collect_host(processes=False).key


def test_the_key_forgets_what_changes_and_knows_what_makes_a_machine() -> None:
    def key(cores: int = 8, ram: int = 64 * GIB, card: GpuFacts = CARD, driver: str = "555.42") -> str:
        return host_key("EPYC", cores, ram, (card,), driver)

    assert key() == key(card=msgspec.structs.replace(CARD, free_bytes=0, temperature_c=80))
    assert key() == key(ram=64 * GIB - 1_000_000)
    assert (
        len({key(), key(cores=4), key(ram=32 * GIB), key(driver="560"), key(card=_other(uuid="GPU-2"))}) == 5
    )


def _other(**changes: str) -> GpuFacts:
    return msgspec.structs.replace(CARD, **changes)
