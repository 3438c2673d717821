"""A binary is asked what it is, and its answers are understood in today's and older forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from narthex.engines import llama_probe
from narthex.engines._base import Engine, EngineDevice
from narthex.engines.llama_probe import (
    CannotRun,
    environment,
    left_out,
    probe,
    read_build,
    read_devices,
    read_flags,
    read_traits,
)
from narthex.units import MIB

from .conftest import is_gone, wait_until

TODAY = """\
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
                                        (env: LLAMA_ARG_FLASH_ATTN)
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM, see --fit
-fit,  --fit [on|off]                   whether to adjust unset arguments ('on' or 'off')
-sm,   --split-mode {none,layer,row,tensor}
                                        - none: use one GPU only
-lv,   --verbosity, --log-verbosity N   Set the verbosity threshold. Values:
                                         - 3: info
                                         - 4: trace (more info)
"""
OF_2024 = """\
  -h,    --help, --usage          print usage and exit
  -fa,   --flash-attn             enable Flash Attention (default: disabled)
  -ngl,  --gpu-layers N           number of layers to store in VRAM
"""


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("version: 11434 (abc1234)\nbuilt with gcc", "b11434"),
        ("version: 0.1.0-dev (build 11434, commit 7e4c0a9)", "b11434"),
        ("version: 0.1.0-dev (build 1, commit 7e4c0a9)", "build 1 (7e4c0a9)"),
        ("version: 0 (unknown)", "build 0 (unknown)"),
        ("ggml_cuda_init: found 1 CUDA devices\nversion: 4567 (deadbee)\n", "b4567"),
        ("version: my own", "my own"),
        ("hello", "unknown"),
    ],
)
def test_a_build_is_named(text: str, build: str) -> None:
    assert read_build(text) == build


def test_flags_are_read_from_the_left_column_only() -> None:
    flags = read_flags(TODAY)
    assert {"-fa", "--flash-attn", "-ngl", "--n-gpu-layers", "-fit", "--fit", "-lv", "-sm"} <= flags
    assert "-" not in flags
    assert not any("none" in flag for flag in flags)


def test_what_a_flag_means_is_read_too() -> None:
    assert read_traits(TODAY) == {"flash-attn-value", "verbosity-levels"}
    assert read_traits(OF_2024) == frozenset()
    assert {"-fa", "-ngl", "-h", "--gpu-layers"} <= read_flags(OF_2024)


def test_devices_are_read_with_brackets_in_their_names() -> None:
    text = (
        "Available devices:\n"
        "  CUDA0: NVIDIA H100 80GB HBM3 (81089 MiB, 80546 MiB free)\n"
        "  Vulkan0: llvmpipe (LLVM 15.0.6, 256 bits) (2048 MiB, 2048 MiB free)\n"
        "  (none)\n"
    )
    assert read_devices(text) == (
        EngineDevice("CUDA0", "NVIDIA H100 80GB HBM3", 81089 * MIB, 80546 * MIB),
        EngineDevice("Vulkan0", "llvmpipe (LLVM 15.0.6, 256 bits)", 2048 * MIB, 2048 * MIB),
    )


@pytest.mark.engine
def test_the_real_binary_tells_what_it_is(engine: Engine) -> None:
    assert engine.build not in ("", "unknown")
    assert {"-ngl", "-c", "-fa", "--list-devices", "--port"} <= engine.flags
    assert "flash-attn-value" in engine.traits
    assert engine.key.startswith(f"llama-server {engine.build} ")


@pytest.mark.engine
def test_an_rpc_server_becomes_a_device(engine: Engine, rpc_server: Callable[[int | None], str]) -> None:
    endpoint = rpc_server(None)
    found = probe(engine.path, "flag", ("--rpc", endpoint))
    assert [device.name for device in found.devices] == ["RPC0"]
    assert found.devices[0].total_bytes > 0
    assert found.extra_args == ("--rpc", endpoint)


def test_a_binary_that_does_not_run_tells_why(script: Callable[[str], Path]) -> None:
    path = script("echo libcuda.so.1: cannot open shared object file >&2; exit 127")
    with pytest.raises(CannotRun, match=r"ended with 127: libcuda.so.1: cannot open shared object file"):
        probe(path, "flag")


def test_a_binary_for_another_machine_tells_why(tmp_path: Path) -> None:
    path = tmp_path / "llama-server"
    path.write_bytes(b"\x7fELF not really")
    path.chmod(0o755)
    with pytest.raises(CannotRun, match="Exec format error"):
        probe(path, "flag")


def test_a_build_without_a_device_list_is_used_with_a_gap(script: Callable[[str], Path]) -> None:
    path = script(
        'case "$*" in --version) echo "version: 3000 (abc)";; --help) echo "-m,    --model FNAME";; esac'
    )
    engine = probe(path, "flag")
    assert engine.build == "b3000"
    assert engine.devices == ()
    assert "no --list-devices" in engine.gaps[0]


def test_settings_from_the_users_environment_do_not_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_N_GPU_LAYERS", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    passed = environment({"EXTRA": "yes"})
    assert "LLAMA_ARG_N_GPU_LAYERS" not in passed
    assert passed["CUDA_VISIBLE_DEVICES"] == "1"
    assert passed["EXTRA"] == "yes"
    assert "LLAMA_ARG_N_GPU_LAYERS" in left_out()[0]


def test_a_long_flag_far_behind_its_short_form_is_read() -> None:
    help_text = "-m,    --model FNAME     model path to load\n-c,    --ctx-size N       size of the context\n"
    assert {"-m", "--model", "-c", "--ctx-size"} == read_flags(help_text)


@pytest.mark.parametrize("program", ["/bin/ls", "/bin/true"])
def test_another_program_is_not_taken_for_an_engine(program: str) -> None:
    with pytest.raises(CannotRun, match="is not a llama-server"):
        probe(program, "flag")


def test_a_binary_that_hangs_is_given_up_with_its_children(
    script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(llama_probe, "PROBE_S", 0.5)
    note = tmp_path / "pid"
    path = script(f"trap '' TERM; sleep 600 & echo $! > {note}; wait")
    with pytest.raises(CannotRun, match="did not answer --version"):
        probe(path, "flag")
    wait_until(lambda: is_gone(int(note.read_text())))
