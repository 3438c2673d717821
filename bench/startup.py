"""How long the quick commands take, as whole processes: one command, one table.

    python bench/startup.py [FILE] [--runs N]

FILE is a GGUF file; without one the embedded model is used. Python's own start is in the table: it is
part of each figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from narthex.views.table import table

ONE_SETTING = (
    *("--ctx", "8192", "--gpu-layers", "max", "--batch", "512", "--ubatch", "512"),
    *("--kv-type", "f16", "--flash-attn", "on", "--parallel", "1", "--vram", "80GB", "--json"),
)
LIMITS = {"narthex --help": 0.20, "narthex plan": 0.25}  # seconds, asked for in the first issue


def main() -> int:
    """Measure and print. Exit code 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(given.file) if given.file else embedded(Path(folder))
        rows = [row(name, words, given.runs, folder) for name, words in commands(model).items()]
    print(table(("command", "median", "fastest", "slowest", "limit", "held"), rows, right="lrrrr"))
    print(f"{given.runs} runs each, after one to warm up · {os.cpu_count()} cores · {model.name}")
    return 1 if any(cells[-1] == "no" for cells in rows) else 0


def commands(model: Path) -> dict[str, list[str]]:
    """What is timed. The installed script where there is one: it is what a person types."""
    script = Path(sys.executable).with_name("narthex")
    narthex = [str(script)] if script.is_file() else [sys.executable, "-m", "narthex"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "narthex --version": [*narthex, "--version"],
        "narthex --help": [*narthex, "--help"],
        "narthex settings": [*narthex, "settings"],
        "narthex inspect": [*narthex, "inspect", str(model)],
        "narthex plan": [*narthex, "plan", str(model), *ONE_SETTING],
        "narthex plan (frontier)": [*narthex, "plan", str(model), "--vram", "20GB"],
    }


def row(name: str, words: list[str], runs: int, folder: str) -> tuple[str, ...]:
    """One command's wall times in milliseconds."""
    environment = {**os.environ, "NARTHEX_DATA": folder, "NARTHEX_STATE": folder}
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run(words, stdout=subprocess.DEVNULL, env=environment, check=True)
        seconds.append(time.perf_counter() - begin)
    times = seconds[1:]  # the first one reads the files from the disk
    limit = LIMITS.get(name)
    held = "" if limit is None else "yes" if statistics.median(times) <= limit else "no"
    cells = [f"{value * 1000:.0f} ms" for value in (statistics.median(times), min(times), max(times))]
    return (name, *cells, f"{limit * 1000:.0f} ms" if limit else "", held)


def embedded(folder: Path) -> Path:
    """The embedded model, assembled."""
    from narthex.models.catalog import find_model

    os.environ.setdefault("NARTHEX_CACHE", str(folder))
    return find_model("demo")


if __name__ == "__main__":
    sys.exit(main())
