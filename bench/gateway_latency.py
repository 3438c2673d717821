"""What a gateway costs: narthex, and others beside it, before one fake engine that answers at once.

    python bench/gateway_latency.py [--rounds 5] [--litellm PYTHON | --install-peers] [--llama-swap BINARY]

All places are asked in turns within one run, a few requests each and every time in another order, so that a
busy moment of the machine hits all of them; a short pause lets a place end its work before the next is asked.
Added latency is a place's median less the engine's own, asked directly. The figures of a crowd (32 clients
with one request each) come from a process of their own.
Writes bench/results/gateway-latency.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gateway_load import Caller, Target
from gateway_places import Place, litellm, llama_swap, narthex
from narthex.testing.fake_engine import QuickOllama, Scenery
from narthex.views.table import table

LITELLM = "litellm[proxy]==1.102.4"
OPENAI, OLLAMA = "/v1/chat/completions", "/api/chat"
TOKENS, SLOTS = 20, 64
BLOCK, PAUSE_S = 25, 0.05
RESULTS = Path(__file__).parent / "results" / "gateway-latency.json"
LIMITS = {"added_p50_ms": 0.6, "stream_added_ms": 0.7, "per_s": 2500.0, "rss_mb": 80.0}


def main() -> int:
    """Measure and print. Exit code 1 when narthex breaks a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300, help="of each kind to each place in a round")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a crowd at each place in a round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--litellm", type=Path, metavar="PYTHON", help="of a venv where LiteLLM is installed")
    parser.add_argument("--install-peers", action="store_true", help=f"{LITELLM} into a temporary venv")
    parser.add_argument("--llama-swap", type=Path, metavar="BINARY")
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        found = measure(given, Path(folder), stack)
    print_table(found)
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["broken"] else 0


def measure(given: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """All rounds of all places."""
    manner = {"tokens": TOKENS, "load_s": 0.05, "model_bytes": 1 << 30}
    scene = Scenery(folder / "scene", card_bytes=16 << 30, manner=manner, models={"chat": {}})
    engine = stack.enter_context(QuickOllama(scene, slots=SLOTS))
    places: list[Place] = [narthex(folder / "narthex", ollama=engine.url)]
    python = given.litellm or (install(folder / "peers") if given.install_peers else None)
    if python is not None:
        places.append(litellm(folder / "litellm", python, engine.url, "chat"))
    if given.llama_swap is not None:
        places.append(llama_swap(folder / "llama-swap", given.llama_swap, scene.program, "chat", SLOTS))
    for place in places:
        stack.enter_context(place)
    direct = [Target("engine", engine.port, path, "chat") for path in (OPENAI, OLLAMA)]
    targets = [*direct, *(Target(place.name, place.port, OPENAI, "chat") for place in places)]
    targets.append(Target("narthex", places[0].port, OLLAMA, "chat"))
    rounds: list[dict[str, dict[str, float]]] = []
    in_turns(targets, stream=False, count=50)  # loads what is not loaded, and warms up
    for number in range(given.rounds):
        rounds.append(one_round(targets, given))
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    rows = summary(targets, rounds)
    for place in places:
        rows[label(Target(place.name, place.port, OPENAI, ""))] |= {
            "rss_mb": place.rss_bytes() / 1e6,
            "start_s": place.started_s,
        }
    return {"machine": machine(), "rounds": given.rounds, "rows": rows, "broken": broken(rows)}


def one_round(targets: list[Target], given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Each target's figures in milliseconds and requests a second."""
    found: dict[str, dict[str, float]] = {}
    whole = in_turns(targets, stream=False, count=given.requests)
    streams = in_turns(targets, stream=True, count=given.requests)
    for target in targets:
        name = label(target)
        found[name] = {
            "p50_ms": statistics.median(whole[name]) * 1000,
            "p99_ms": sorted(whole[name])[int(len(whole[name]) * 0.99)] * 1000,
            "stream_ms": statistics.median(streams[name]) * 1000,
        }
    for target in targets:
        words = [sys.executable, str(Path(__file__).with_name("gateway_load.py"))]
        words += [str(target.port), target.path, target.model, "--clients", str(given.clients)]
        ran = subprocess.run([*words, "--seconds", str(given.seconds)], capture_output=True, check=True)
        found[label(target)]["per_s"] = json.loads(ran.stdout)["per_s"]
    return found


def in_turns(targets: list[Target], *, stream: bool, count: int) -> dict[str, list[float]]:
    """Seconds of each request; a block of requests to each target, then the next block to each."""
    callers = [Caller(target, stream=stream) for target in targets]
    took: dict[str, list[float]] = {label(target): [] for target in targets}
    try:
        for number in range(-(-count // BLOCK)):
            for caller in callers[number % len(callers) :] + callers[: number % len(callers)]:
                time.sleep(PAUSE_S)
                caller.ask()
                took[label(caller.target)] += [caller.ask() for _ in range(BLOCK)]
    finally:
        for caller in callers:
            caller.close()
    return took


def summary(targets: list[Target], rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians over the rounds. What is added is taken within a round."""
    rows: dict[str, dict[str, float]] = {}
    for target in targets:
        name, base = label(target), f"engine {target.path}"

        def median(key: str, of: str = name, less: str = "") -> float:
            return statistics.median(row[of][key] - (row[less][key] if less else 0.0) for row in rounds)

        row = rows[name] = {key: median(key) for key in ("p50_ms", "p99_ms", "stream_ms", "per_s")}
        if target.name != "engine":
            row["added_p50_ms"] = median("p50_ms", less=base)
            row["added_p99_ms"] = median("p99_ms", less=base)
            row["stream_added_ms"] = median("stream_ms", less=base)
    return rows


def broken(rows: dict[str, dict[str, float]]) -> list[str]:
    """The limits that narthex does not hold, in words."""
    found = []
    for name in (f"narthex {OPENAI}", f"narthex {OLLAMA}"):
        for key, limit in LIMITS.items():
            value = rows[name].get(key)
            if value is not None and (value < limit if key == "per_s" else value > limit):
                found.append(f"{name}: {key} is {value:.2f}, the limit {limit:g}")
    return found


def label(target: Target) -> str:
    """A row's name."""
    return f"{target.name} {target.path}"


def print_table(found: dict[str, Any]) -> None:
    """As people read it; ratios are to narthex on the same path."""
    cells = []
    for name, row in found["rows"].items():
        own = found["rows"][f"narthex {name.partition(' ')[2]}"]
        cells.append(
            (
                name,
                *(f"{row[key]:.2f} ms" for key in ("p50_ms", "p99_ms")),
                *(_added(row, own, key) for key in ("added_p50_ms", "added_p99_ms", "stream_added_ms")),
                f"{row['per_s']:.0f} ({row['per_s'] / own['per_s']:.2f}×)",
                f"{row['rss_mb']:.0f} MB" if "rss_mb" in row else "",
            )
        )
    head = ("place", "p50", "p99", "added p50", "added p99", "20-chunk stream adds", "requests/s", "RSS")
    print(table(head, cells, right="lrrrrrrr"))
    print(f"medians of {found['rounds']} rounds · {found['machine']}")
    for words in found["broken"]:
        print(f"broken: {words}")


def _added(row: dict[str, float], own: dict[str, float], key: str) -> str:
    if key not in row:
        return ""
    return f"{row[key]:.2f} ms ({row[key] / own[key]:.1f}×)" if own[key] > 0 else f"{row[key]:.2f} ms"


def machine() -> str:
    """For the caption."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}"


def install(folder: Path) -> Path:
    """LiteLLM in a venv of its own; its python."""
    print(f"installing {LITELLM} …", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", LITELLM]
    subprocess.run(words, check=True)
    return python


if __name__ == "__main__":
    sys.exit(main())
