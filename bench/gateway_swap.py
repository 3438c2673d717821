"""What narthex adds to a change of models, how soon it refuses, whether it cancels and lets nobody starve.

    python bench/gateway_swap.py [--rounds 10] [--json FILE]

The engines are fakes that tell to the millisecond when they began, were ready, and ended; the card has room
for one model at a time. The engine's own time is taken in turns with it, from starts without narthex. Exit
code 1 where a limit is broken. Writes bench/results/gateway-swap.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway_latency import machine
from gateway_places import Place, ask, get, narthex
from narthex.testing.fake_engine import QuickOllama, Scenery, free_port
from narthex.views.table import table

GIB = 1 << 30
CARD, LOAD_S, ANSWER_S = 10 * GIB, 0.3, 0.5
STARVATION_S = 3.0
CANCEL_S = 1.5
BESIDE = "beside"  # small enough for the card beside each of the others
OWN = "the engine's own start"
PATH = "/v1/chat/completions"
RESULTS = Path(__file__).parent / "results" / "gateway-swap.json"
LIMITS = {  # seconds
    "swap overhead": 0.1,
    "ready-detection error": 0.1,
    "second caller after a failed load": 0.010,
    "refusal of what never fits": 0.050,
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {
            "machine": machine(),
            "rounds": given.rounds,
            "times": times(Path(name) / "times", given.rounds),
            "cancelled": cancellations(Path(name) / "cancel", given.rounds),
            "starvation": starvation(Path(name) / "starve", max(3, given.rounds // 3)),
        }
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    return report(found)


# times


def times(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind, one a round."""
    scene, place = served(folder)
    found: dict[str, list[float]] = {name: [] for name in (*LIMITS, OWN)}
    with place:
        chat(place, "a")
        chat(place, "b")
        for _ in range(rounds):
            for model in ("a", "b"):
                found[OWN].append(own_start(scene))
                swapped(place, scene, model, found[OWN][-1], found)
        for _ in range(rounds):
            begin = time.monotonic()
            status, _ = chat(place, "huge")
            assert status == 507, status
            found["refusal of what never fits"].append(time.monotonic() - begin)
        for number in range(rounds):
            name = f"broken{number}"
            status, words = chat(place, name)
            assert status >= 500, words
            begin = time.monotonic()
            assert chat(place, name)[0] == status
            found["second caller after a failed load"].append(time.monotonic() - begin)
    return found


def served(folder: Path, *, models: int = 10) -> tuple[Scenery, Place]:
    """A scene with two models that don't fit together, one that never fits, some that fail, and narthex."""
    scene = Scenery(folder, card_bytes=CARD, manner={"load_s": LOAD_S, "beside_bytes": 610 << 20})
    scene.model_file(BESIDE, GIB)
    sizes = {"a": 6, "b": 7, "huge": 40} | {f"broken{number}": 2 for number in range(models)}
    files = [scene.model_file(name, size * GIB) for name, size in sizes.items()]
    for number in range(models):
        scene.change(f"broken{number}", load_fault="corrupt", load_s=0.0)
    settings = "".join(f'[models."{file}"]\nnum_ctx = 4096\nnum_gpu = 33\n' for file in files)
    policy = f'[gateway]\nvram = "{CARD >> 30}GiB"\n{settings}'
    return scene, narthex(folder / "narthex", engine=scene.program, policy=policy)


def own_start(scene: Scenery) -> float:
    """From the start of the program until it is ready, without narthex; its load time is in it."""
    model = scene.folder / f"{BESIDE}.gguf"
    words = [str(scene.program), "-m", str(model), "--port", str(free_port()), "-c", "4096"]
    begin = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    until(lambda: scene.events("ready", pid=process.pid))
    ready = scene.events("ready", pid=process.pid)[0]["t"]
    process.send_signal(signal.SIGTERM)
    process.wait()
    return float(ready - begin)


def swapped(place: Place, scene: Scenery, model: str, start_s: float, found: dict[str, list[float]]) -> None:
    """One change of models, seen from the client and from the engine."""
    begin = time.monotonic()
    status, words = chat(place, model)
    took = time.monotonic() - begin
    assert status == 200, words
    rows = {row["event"]: row["t"] for row in scene.events() if row["t"] >= begin}
    own = rows["stopped"] - rows["stop"] + start_s
    found["swap overhead"].append(took - own)
    found["ready-detection error"].append(rows["first request"] - rows["ready"])


# cancellation


def cancellations(folder: Path, rounds: int) -> dict[str, Any]:
    """For each case: how many of how many reached the engine (or left the queue) in time, and the longest."""
    scene, place = served(folder, models=0)
    found: dict[str, Any] = {}
    with place:
        chat(place, "a")
        for case, body in (
            ("mid-stream", question("a", "[[tokens 400]] [[interval 0.05]]", stream=True)),
            ("before the first byte", question("a", "[[first 30]]", stream=True)),
            ("not streaming", question("a", "[[tokens 400]] [[interval 0.05]]")),
        ):
            took = [cancelled(place, scene, body, mid=case == "mid-stream") for _ in range(rounds)]
            found[case] = summed(took)
        found["queued"] = summed([unqueued(place) for _ in range(rounds)])
    return found


def cancelled(place: Place, scene: Scenery, body: dict[str, Any], *, mid: bool) -> float | None:
    """Seconds from the client's end until the engine noticed it; None where it did not in time."""
    before = len(scene.events("gone"))
    client = opened(place, body)
    if mid:
        client.recv(65536)
    time.sleep(0.15)  # it is under way at the engine
    client.close()
    left = time.monotonic()
    if not until(lambda: len(scene.events("gone")) > before, CANCEL_S + 1):
        return None
    return float(scene.events("gone")[-1]["t"] - left)


def unqueued(place: Place) -> float | None:
    """The same for one that waits behind a long answer."""
    long = opened(place, question("a", "[[first 30]]"))
    until(lambda: any(row["running"] for row in state(place)["holdings"]))
    client = opened(place, question("a", "hello"))
    until(lambda: state(place)["waiting"])
    client.close()
    left = time.monotonic()
    gone = until(lambda: not state(place)["waiting"], CANCEL_S + 1)
    took = time.monotonic() - left
    long.close()
    until(lambda: not any(row["running"] for row in state(place)["holdings"]))
    return took if gone else None


def summed(took: list[float | None]) -> dict[str, Any]:
    """In time, of all, and the longest in seconds."""
    known = [value for value in took if value is not None]
    return {
        "in_time": sum(value <= CANCEL_S for value in known),
        "of": len(took),
        "longest_s": max(known, default=None),
    }


# starvation


def starvation(folder: Path, rounds: int) -> dict[str, Any]:
    """Three clients keep A busy without a gap; how long does one wait who wants B?"""
    models = {"a": {"model_bytes": 6 * GIB}, "b": {"model_bytes": 7 * GIB}}
    manner = {"load_s": LOAD_S, "first_s": ANSWER_S, "beside_bytes": 610 << 20}
    scene = Scenery(folder, card_bytes=CARD, manner=manner, models=models)
    policy = f'[gateway]\nvram = "{CARD >> 30}GiB"\nstarvation = "{STARVATION_S:g}s"\nresidency = "1s"\n'
    waits, answers = [], [0]
    with (
        QuickOllama(scene, slots=4) as ollama,
        narthex(folder / "n", ollama=ollama.url, policy=policy) as place,
    ):
        chat(place, "a")
        stop = threading.Event()
        lock = threading.Lock()

        def keep_busy(number: int) -> None:
            dice = random.Random(number)
            while not stop.is_set():
                # Answers of one length would end together, and leave a gap.
                status, words = chat(place, "a", f"[[first {dice.uniform(0.5, 1) * ANSWER_S:.3f}]]")
                assert status == 200, words
                with lock:
                    answers[0] += 1

        threads = [threading.Thread(target=keep_busy, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(rounds):
            before = answers[0]
            until(lambda before=before: answers[0] > before + 9)  # type: ignore[misc]
            begin = time.monotonic()
            status, words = chat(place, "b")
            assert status == 200, words
            waits.append(time.monotonic() - begin)
        stop.set()
        for thread in threads:
            thread.join()
    # Until the turn is theirs, until the answers under way end, and the change of models with its answer.
    bound = STARVATION_S + ANSWER_S + LOAD_S + ANSWER_S + 1.0
    return {"waits_s": waits, "bound_s": bound, "answers_of_the_others": answers[0]}


# what is shared


def question(model: str, text: str, *, stream: bool = False) -> dict[str, Any]:
    """A body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}


def chat(place: Place, model: str, text: str = "hello") -> tuple[int, bytes]:
    """A short answer."""
    return ask(place.port, "POST", PATH, question(model, text))


def opened(place: Place, body: dict[str, Any]) -> socket.socket:
    """A connection with a request on its way."""
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", place.port), timeout=30)
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


def state(place: Place) -> dict[str, Any]:
    """The conductor's snapshot."""
    found: dict[str, Any] = json.loads(get(place.port, "/narthex/state")[1])
    return found


def until(true: Callable[[], Any], seconds: float = 30.0) -> bool:
    """Whether it became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.005)
    return False


def report(found: dict[str, Any]) -> int:
    """Print; 1 where a limit is broken."""
    rows, broken = [], 0
    for name, took in found["times"].items():
        limit = LIMITS.get(name)
        middle = statistics.median(took)
        held = "" if limit is None else "yes" if middle < limit else "no"
        broken += held == "no"
        figures = [f"{value * 1000:.1f} ms" for value in (middle, min(took), max(took))]
        rows.append((name, *figures, f"{limit * 1000:.0f} ms" if limit else "", held))
    for case, row in found["cancelled"].items():
        held = "yes" if row["in_time"] == row["of"] else "no"
        broken += held == "no"
        longest = f"{row['longest_s'] * 1000:.0f} ms" if row["longest_s"] is not None else "never"
        counted = f"{row['in_time']} of {row['of']}"
        rows.append((f"cancelled {case}", counted, "", longest, f"{CANCEL_S * 1000:.0f} ms", held))
    waits, bound = found["starvation"]["waits_s"], found["starvation"]["bound_s"]
    held = "yes" if max(waits) <= bound else "no"
    broken += held == "no"
    figures = [f"{value:.2f} s" for value in (statistics.median(waits), min(waits), max(waits), bound)]
    rows.append((f"wait beside a busy model (starvation {STARVATION_S:g} s)", *figures, held))
    print(table(("what", "median", "least", "most", "limit", "held"), rows, right="lrrrrr"))
    print(f"{found['rounds']} rounds · {found['machine']} · {os.getloadavg()[0]:.1f} load")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
