"""The engine's dry run: its command line, its rows, its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.engines._base import DeviceBuffers, Engine
from narthex.engines.fit_params import arguments, dry_run, parse
from narthex.errors import EngineError
from narthex.knobs import KnobValues
from narthex.units import MIB

PRINTED = """0.00.026.544 I llama_fit_params: printing estimated memory in MiB to stdout
CUDA0 18508 2048 345
Host 417 0 48
"""


def engine(fit_params: Path | None) -> Engine:
    return Engine(
        kind="llama-server",
        path="llama-server",
        source="flag",
        build="b11434",
        flags=frozenset(),
        devices=(),
        fit_params=str(fit_params) if fit_params else None,
    )


def program(folder: Path, words: str) -> Path:
    path = folder / "llama-fit-params"
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o755)
    return path


def test_rows_are_read_and_all_else_is_not() -> None:
    assert parse(PRINTED) == (
        DeviceBuffers(
            device="CUDA0", model_bytes=18508 * MIB, context_bytes=2048 * MIB, compute_bytes=345 * MIB
        ),
        DeviceBuffers(device="Host", model_bytes=417 * MIB, context_bytes=0, compute_bytes=48 * MIB),
    )
    assert parse("Usage: 1 2\n") == ()


def test_the_engine_gets_the_context_of_all_slots() -> None:
    knobs = KnobValues(num_ctx=8192, parallel=4, gpu_layers=12, kv_type="q8_0", flash_attn="on", cpu_moe=3)
    words = arguments("m.gguf", knobs)
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs["-c"] == "32768"
    assert pairs["-np"] == "4"
    assert pairs["-ngl"] == "12"
    assert pairs["-ncmoe"] == "3"
    assert pairs["-ctk"] == pairs["-ctv"] == "q8_0"
    assert "-ngl" not in arguments("m.gguf", KnobValues(gpu_layers=None))


def test_a_dry_run_is_read(tmp_path: Path) -> None:
    rows = dry_run(engine(program(tmp_path, "echo CUDA0 10 20 30; echo Host 1 2 3")), "m", KnobValues())
    assert [row.device for row in rows] == ["CUDA0", "Host"]


def test_a_refusal_is_told_by_its_last_line_of_error(tmp_path: Path) -> None:
    refusing = program(tmp_path, "echo 'error: no such model' >&2; echo bye >&2; exit 1")
    with pytest.raises(EngineError, match="no such model"):
        dry_run(engine(refusing), "m", KnobValues())


def test_an_engine_without_a_dry_run_says_so() -> None:
    with pytest.raises(EngineError, match="llama-fit-params"):
        dry_run(engine(None), "m", KnobValues())


def test_one_that_does_not_start_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="dry run failed"):
        dry_run(engine(tmp_path / "nowhere"), "m", KnobValues())
