"""How near are planned bytes to the engine's own? One table: narthex and planners from PyPI, same rows.

    python bench/planner_accuracy.py [ROWS.jsonl …] [--peers]

Rows are dry runs of llama.cpp b11434 on an H100 (``../shared/bench/memory_truth.jsonl`` unless others are
named). narthex plans uncalibrated, for an empty card of 80 GB. The models are written as headers only.
``--peers`` installs the other planners into ``build/peers`` first; without it those already there are asked.

«Total» is model + context + compute on the GPU. A total holds within 2 % or 64 MiB, a term within 5 % or
16 MiB, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narthex.knobs import KnobValues
from narthex.memory.plan import Device, plan_memory
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.units import GIB, MIB
from narthex.views.table import table

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "bench"
PEERS = ROOT / "build" / "peers"
PACKAGES = ("llama-mdl", "oldiron", "hearthwork", "polyserve")
CARD = (Device(name="GPU0", kind="gpu", free_bytes=80 * GIB), Device(name="host", kind="host"))
TERMS = ("model", "context", "compute")
HEAD = ("planner", "rows", "total", "worst", "worst under", "weights", "context", "compute", "to the MiB")

Row = dict[str, Any]
Told = dict[str, float] | None


def main() -> int:
    """Plan every row with every planner and print. Exit code 1 when narthex breaks its own promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", type=Path, default=[SHARED / "memory_truth.jsonl"])
    parser.add_argument("--peers", action="store_true", help="install the other planners first")
    given = parser.parse_args()
    rows = [json.loads(line) for path in given.rows for line in path.read_text().splitlines()]
    rows = [row for row in rows if row.get("gpu")]
    if given.peers:
        install()
    with tempfile.TemporaryDirectory() as folder:
        models = {name: header(name, Path(folder)) for name in dict.fromkeys(row["model"] for row in rows)}
        told: dict[str, list[Told] | str] = {"narthex": [narthex(models[row["model"]], row) for row in rows]}
        told |= {name: peer(name, models, rows) for name in PACKAGES}
    print(table(HEAD, [line(name, rows, answers) for name, answers in told.items()], right="lrrrrrrrr"))
    print(f"{len(rows)} rows of {len(models)} models")
    ours = told["narthex"]
    assert isinstance(ours, list)
    return 0 if keeps_promise(rows, ours) else 1


def header(name: str, folder: Path) -> Inspection:
    """A model of this shape, without its weights."""
    path = folder / f"{name}.gguf"
    words = [sys.executable, str(SHARED / "synth_gguf.py"), name, str(path), "--header-only"]
    subprocess.run(words, check=True, capture_output=True)
    return inspect_file(path)


def narthex(model: Inspection, row: Row) -> Told:
    """What narthex plans."""
    knobs = KnobValues(
        num_ctx=row["ctx"],
        gpu_layers=row["gpu_layers"],
        batch=row.get("batch") or max(512, row["ubatch"]),
        ubatch=row["ubatch"],
        kv_type=row["kv_type"],
        flash_attn=row["flash_attn"],
        parallel=row["parallel"],
        cpu_moe=row.get("cpu_moe") or 0,
    )
    gpu = plan_memory(model, knobs, CARD).devices[0]
    return {"model": gpu.model_bytes, "context": gpu.context_bytes, "compute": gpu.compute_bytes}


def install() -> None:
    """The other planners, in an environment of their own."""
    venv.create(PEERS, with_pip=True)
    pip = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for package in PACKAGES:
        if subprocess.run([*pip, package], check=False).returncode:
            print(f"{package} could not be installed", file=sys.stderr)


def peer(name: str, models: dict[str, Inspection], rows: Sequence[Row]) -> list[Told] | str:
    """What another planner says, or why it says nothing."""
    python = PEERS / "bin" / "python"
    if not python.is_file():
        return "not installed: --peers"
    asked = [
        {**row, "path": models[row["model"]].path, "layers": models[row["model"]].layers} for row in rows
    ]
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("peer_planners.py")), name],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:60]
    answers: list[Told] = json.loads(done.stdout)
    return answers


def line(name: str, rows: Sequence[Row], answers: list[Told] | str) -> tuple[str, ...]:
    """One planner's row of the table."""
    if isinstance(answers, str):
        return (name, "0", answers, *[""] * 6)
    off = offsets(rows, answers)
    totals = off["total"]
    worst = max((pair for pair in totals), key=lambda pair: abs(pair[0]) / max(pair[1], 1))
    exact = sum(
        all(int(told[term] // MIB) == row["gpu"][f"{term}_mib"] for term in TERMS)
        for row, told in _both(rows, answers)
    )
    return (
        name,
        str(len(totals)),
        share(totals, 2, 64),
        f"{worst[0]:+,.0f} MiB ({100 * worst[0] / max(worst[1], 1):+.1f} %)",
        f"{min(0.0, *(pair[0] for pair in totals)):,.0f} MiB",
        *(share(off[term], 5, 16) for term in TERMS),
        f"{100 * exact / len(totals):.0f} %",
    )


def offsets(rows: Sequence[Row], answers: Sequence[Told]) -> dict[str, list[tuple[float, float]]]:
    """(MiB too many, true MiB) of each answered row, for the total and each term."""
    off: dict[str, list[tuple[float, float]]] = {name: [] for name in ("total", *TERMS)}
    for row, told in _both(rows, answers):
        truth = {term: row["gpu"][f"{term}_mib"] for term in TERMS}
        off["total"].append((sum(told.values()) / MIB - sum(truth.values()), sum(truth.values())))
        for term in TERMS:
            off[term].append((told[term] / MIB - truth[term], truth[term]))
    return off


def _both(rows: Sequence[Row], answers: Sequence[Told]) -> list[tuple[Row, dict[str, float]]]:
    return [(row, told) for row, told in zip(rows, answers, strict=True) if told is not None]


def near(pair: tuple[float, float], percent: float, mib: float) -> bool:
    """Whether a figure is within a share of the truth or a few MiB."""
    return abs(pair[0]) <= max(pair[1] * percent / 100, mib)


def share(pairs: Sequence[tuple[float, float]], percent: float, mib: float) -> str:
    """The share of figures that are near."""
    return f"{100 * sum(near(pair, percent, mib) for pair in pairs) / len(pairs):.0f} %"


def keeps_promise(rows: Sequence[Row], answers: Sequence[Told]) -> bool:
    """The first issue's figures: 95 % near, the worst within 5 % or 64 MiB, never 96 MiB under."""
    off = offsets(rows, answers)
    total = off.pop("total")
    return (
        sum(near(pair, 2, 64) for pair in total) >= 0.95 * len(total)
        and all(near(pair, 5, 64) for pair in total)
        and min(pair[0] for pair in total) >= -96
        and all(sum(near(pair, 5, 16) for pair in pairs) >= 0.95 * len(pairs) for pairs in off.values())
    )


if __name__ == "__main__":
    sys.exit(main())
