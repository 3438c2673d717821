"""Models as headers, and what the engine's own dry runs said about them.

``tests/data/memory`` holds rows of ``llama-fit-params`` (llama.cpp b11434), in whole MiB rounded down:
``dry_runs_by_architecture.csv`` and ``dry_runs_by_setting.csv`` from the CUDA build on an H100,
``dry_runs_without_gpu.csv`` from the CPU build. The first and the last are of the models in ``shapes.json``,
the second of those that ``../shared/bench/synth_gguf.py`` writes, as are the recorded rows there.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from narthex.knobs import KnobValues
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.testing.gguf_writer import Tensor, Typed, write_gguf

DATA = Path(__file__).resolve().parents[1] / "data" / "memory"

Row = dict[str, Any]
Model = Callable[[str], Inspection]
Rows = Callable[[str], list[Row]]


@pytest.fixture(scope="session")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of ``shapes.json`` by its name."""
    shapes = json.loads((DATA / "shapes.json").read_text())
    folder = tmp_path_factory.mktemp("shapes")

    @cache
    def read(name: str) -> Inspection:
        held = shapes[name]
        metadata = {key: _typed(value) for key, value in held["metadata"].items()}
        tensors = [tensor for line in held["tensors"] for tensor in _tensors(line)]
        return inspect_file(write_gguf(folder / f"{name}.gguf", metadata, tensors))

    return read


@pytest.fixture(scope="session")
def known_model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A well-known model by its name, as ``../shared/bench/synth_gguf.py`` writes it."""
    folder = tmp_path_factory.mktemp("models")
    script = shared / "bench" / "synth_gguf.py"

    @cache
    def read(name: str) -> Inspection:
        path = folder / f"{name}.gguf"
        words = [sys.executable, str(script), name, str(path), "--header-only"]
        subprocess.run(words, check=True, capture_output=True)
        return inspect_file(path)

    return read


@pytest.fixture(scope="session")
def dry_runs() -> Rows:
    """The rows of a file in ``tests/data/memory``."""

    def read(name: str) -> list[Row]:
        with (DATA / name).open(encoding="ascii") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]

    return read


def asked(row: Row) -> KnobValues:
    """The setting of a row."""
    return KnobValues(
        num_ctx=row["ctx"],
        gpu_layers=row.get("gpu_layers", 0),
        batch=row.get("batch") or max(row["ubatch"], 512),
        ubatch=row["ubatch"],
        kv_type=row["kv_type"],
        flash_attn=row["flash_attn"],
        parallel=row["parallel"],
        cpu_moe=row.get("cpu_moe") or 0,
    )


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _typed(value: Any) -> Any:
    """Lists of whole numbers are signed in the files of the engine's own converter."""
    if isinstance(value, list) and isinstance(value[0], int) and not isinstance(value[0], bool):
        return Typed("i32", value)
    return value


def _tensors(line: str) -> Iterator[Tensor]:
    """``blk.*.attn_q.weight 2048x3072 Q4_K 0-26`` as one tensor a layer."""
    name, dims, kind, *layers = line.split()
    sizes = tuple(map(int, dims.split("x")))
    if not layers:
        yield name, sizes, kind
        return
    for run in layers[0].split(","):
        first, _, last = run.partition("-")
        for layer in range(int(first), int(last or first) + 1):
            yield name.replace("*", str(layer)), sizes, kind
