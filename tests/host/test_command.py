"""``narthex host`` on this machine, and a machine with cards as it would be shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from narthex.cli.commands.host import as_lines, command, gpu_lines
from narthex.engines._base import Engine, EngineDevice
from narthex.engines.llama_find import Skipped
from narthex.host.collect import collect_host
from narthex.host.facts import GpuFacts, GpuProcess
from narthex.units import GIB

CARD = GpuFacts(
    index=0,
    uuid="GPU-1",
    name="NVIDIA RTX 4000 Ada",
    total_bytes=20 * GIB,
    free_bytes=12 * GIB,
    used_bytes=8 * GIB,
    processes=(
        GpuProcess(pid=77, name="comfyui", vram_bytes=7 * GIB),
        GpuProcess(pid=78, name=None, vram_bytes=None),
    ),
    temperature_c=61,
    sm_clock_mhz=2100,
    power_w=118.5,
    power_limit_w=130,
    throttle_reasons=("power cap",),
    bandwidth_bytes_s=360e9,
)
ENGINE = Engine(
    kind="llama-server",
    path="/usr/bin/llama-server",
    source="PATH",
    build="b11434",
    flags=frozenset(),
    devices=(EngineDevice("CUDA0", "NVIDIA RTX 4000 Ada", 20 * GIB, 12 * GIB),),
    gaps=("something is unknown",),
)


@pytest.mark.engine
def test_json_is_data_on_stdout(engine_binary: Path) -> None:
    result = CliRunner().invoke(
        command, ["--json", "--engine-path", str(engine_binary)], catch_exceptions=False
    )
    data = json.loads(result.stdout)
    assert {"hostname", "gpus", "gaps", "driver", "ram_total_bytes", "physical_cores", "key"} <= set(data)
    (engine,) = data["engines"]
    assert engine["path"] == str(engine_binary)
    assert engine["key"].startswith("llama-server ")
    assert "env" not in engine


def test_a_machine_without_an_engine_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--engine-path", str(tmp_path / "none")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "none was found" in result.output
    assert "was skipped" in result.output


def test_a_card_is_shown_with_its_tenants_named() -> None:
    lines = "\n".join(gpu_lines(CARD))
    assert "12.0 GiB free of 20.0 GiB, 8.00 GiB in use" in lines
    assert "61 °C, 118 of 130 W, SM 2100 MHz, 360 GB/s at most, slowed down: power cap" in lines
    assert "comfyui (pid 77) holds 7.00 GiB" in lines
    assert "a process without a name (pid 78) holds an unknown size" in lines


def test_engines_and_what_does_not_run_are_both_shown() -> None:
    skipped = [Skipped("/opt/llama-server", "PATH", "it ended with 127: no libcuda.so.1")]
    lines = "\n".join(as_lines(collect_host(), [ENGINE], skipped))
    assert "llama-server b11434 (PATH): /usr/bin/llama-server" in lines
    assert "device CUDA0: NVIDIA RTX 4000 Ada, 12.0 GiB free of 20.0 GiB" in lines
    assert "/opt/llama-server was skipped: it ended with 127: no libcuda.so.1" in lines
    assert "something is unknown" in lines


def test_it_is_reached_by_its_verb(engine_binary: Path) -> None:
    from narthex.cli.main import command as narthex

    result = CliRunner().invoke(
        narthex, ["host", "--engine-path", str(engine_binary)], catch_exceptions=False
    )
    assert result.output.startswith("Machine")
