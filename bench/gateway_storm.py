"""A storm at the gateway: many clients, models that don't fit together, engines that die, hang and run out.

    python bench/gateway_storm.py [--requests 10000 | --for 30m] [--clients 64] [--seed 1]

Four models in a fake Ollama and two files for fake llama-servers share one fake card that holds two of them.
Clients ask in both dialects, streamed or not, some with little patience. Meanwhile engines are killed, hang
while they load or answer, are refused memory, break off, and a fake ComfyUI comes, works and goes. Every
request must end in an answer or in a classified error within its bound; afterwards nothing may be left.
Prints a verdict and writes bench/results/gateway-storm.json. Exit code 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from gateway_places import Place, ask, family, get, narthex
from narthex.testing.fake_comfyui import FakeComfyUI, portrait
from narthex.testing.fake_engine import QuickOllama, Scenery, free_port
from narthex.testing.gguf_writer import write_gguf
from narthex.units import GIB, parse_duration

RESULTS = Path(__file__).parent / "results" / "gateway-storm.json"
SERVED = {"a": 9, "b": 8, "c": 12, "d": 6}  # by Ollama, GiB
FILES = {"e": 7, "f": 9}  # for llama-server
CARD = 20 * GIB
WAIT_S, FIRST_S, BETWEEN_S, TOTAL_S, STALL_S, STARVATION_S = 30, 5, 2, 12, 3, 3
BOUND_S = WAIT_S + TOTAL_S + 15.0
"""The longest that one request may take: its wait, its answer, and once more of a load for its fallback."""
POLICY = f"""
[gateway]
starvation = "{STARVATION_S}s"
residency = "500ms"
wait = "{WAIT_S}s"
remember = "1s"
stall = "{STALL_S}s"
first_token = "{FIRST_S}s"
between = "{BETWEEN_S}s"
total = "{TOTAL_S}s"
queue = 512
comfyui = "lease"
comfyui_url = "http://127.0.0.1:COMFY"
comfyui_vram = "9 GiB"
comfyui_linger = "300ms"
[roles]
fast = ["d", "a"]
quality = ["c", "b"]
"""
FAULTS = ("[[hang 3]]", "[[break 3]]", "[[error 3]]", "[[die 2]]", "[[refuse 500]]", "[[first 9]]")
LOAD_FAULTS = ("hang", "oom", "die", "abort", "corrupt", "silent")


class Storm:
    """One run."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.dice = random.Random(given.seed)
        self.ends: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.odd: list[str] = []
        self.longest_s = 0.0
        self.begun = 0
        self.until = time.monotonic() + given.seconds if given.seconds else None
        self.over = asyncio.Event()

    async def run(self, scene: Scenery, gateway: Place, comfy_port: int) -> None:
        """Clients and chaos, until the last client has its answer."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            chaos = asyncio.create_task(self.chaos(scene, gateway, comfy_port, session))
            async with asyncio.TaskGroup() as group:
                for number in range(self.given.clients):
                    group.create_task(
                        self.client(session, gateway.url, random.Random(f"{self.given.seed}-{number}"))
                    )
            self.over.set()
            await chaos

    def more(self) -> bool:
        """Whether another request is to be made."""
        if self.until is not None:
            return time.monotonic() < float(self.until)
        return self.begun < int(self.given.requests)

    async def client(self, session: aiohttp.ClientSession, url: str, dice: random.Random) -> None:
        while self.more():
            self.begun += 1
            begin = time.monotonic()
            end = await self.request(session, url, dice)
            took = time.monotonic() - begin
            self.longest_s = max(self.longest_s, took)
            if took > BOUND_S:
                end = f"LATE ({end})"
            self.ends[end] += 1
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * self.given.pause)

    async def request(self, session: aiohttp.ClientSession, url: str, dice: random.Random) -> str:
        """How it ended, in a word: a capital one breaks a promise."""
        model = dice.choices([*SERVED, *FILES, "fast", "quality"], weights=[4, 3, 2, 5, 2, 1, 4, 2])[0]
        stream, openai = dice.random() < 0.6, dice.random() < 0.5
        fault = dice.choice(FAULTS) if dice.random() < 0.03 else ""
        words = f"{fault} [[tokens {dice.randrange(1, 12)}]] [[interval {dice.random() * 0.02:.3f}]] hello"
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": words}],
            "stream": stream,
        }
        if not openai and dice.random() < 0.3:
            body["options"] = {
                "num_ctx": dice.choice([1024, 2048, 4096]),
                "num_batch": dice.choice([64, 512]),
            }
        headers = {"X-Narthex-Task": "title_generation"} if dice.random() < 0.1 else {}
        patience = dice.uniform(0.02, 0.6) if dice.random() < 0.1 else BOUND_S + 20
        path = "/v1/chat/completions" if openai else "/api/chat"
        try:
            async with asyncio.timeout(patience):
                async with session.post(url + path, json=body, headers=headers) as answer:
                    text = (await answer.read()).decode("utf-8", "replace")
                    return self.judged(answer.status, text, stream, openai)
        except TimeoutError:
            return "left" if patience < BOUND_S else "LOST"
        except aiohttp.ClientError as error:
            # One JSON value that broke off can only be told by its connection's end.
            word = "cut" if not stream and isinstance(error, aiohttp.ClientPayloadError) else "BROKEN"
            if word == "BROKEN":
                self.odd.append(f"{type(error).__name__}: {error}"[:200])
            return word

    def judged(self, status: int, text: str, stream: bool, openai: bool) -> str:
        if "gateway_fault" in text:
            self.odd.append(text[:400])
            return "FAULT"
        if "[narthex: " in text:
            cause = text.rpartition("[narthex: ")[2].partition("]")[0]
            return f"{status} {cause}"
        if status == 200:
            ended = "[DONE]" in text[-40:] if openai else '"done":true' in text.replace(" ", "")[-600:]
            if not stream or ended:
                return "answered"
            if openai and '"error"' in text[-600:]:
                return "200 engine's own error"
        if 400 <= status < 500 and '"error"' in text:
            return f"{status} engine's own"
        self.odd.append(f"{status} {text[-300:]}")
        return "UNCLASSIFIED"

    # what goes wrong

    async def chaos(
        self, scene: Scenery, gateway: Place, comfy_port: int, session: aiohttp.ClientSession
    ) -> None:
        comfy: FakeComfyUI | None = None
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), self.dice.uniform(0.2, 1.2))
            what = self.dice.choice(("kill", "load", "load", "comfy", "image", "image", "stop"))
            self.faults[what] += 1
            pids = [pid for pid in scene.card.held() if pid != os.getpid()] if scene.card else []
            if what == "kill" and pids:
                with contextlib.suppress(OSError):
                    os.kill(self.dice.choice(pids), signal.SIGKILL)
            elif what == "stop" and pids:
                pid = self.dice.choice(pids)
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)
                    asyncio.get_running_loop().call_later(4.0, _go_on, pid)
            elif what == "load":
                model = self.dice.choice([*SERVED, *FILES])
                scene.once(model, load_fault=self.dice.choice(LOAD_FAULTS))
            elif what == "comfy":
                if comfy is None:
                    with contextlib.suppress(OSError):
                        comfy = FakeComfyUI(port=comfy_port, work_s=0.3)
                        comfy.__enter__()
                else:
                    comfy.__exit__(None, None, None)
                    comfy = None
            elif what == "image":
                task = asyncio.create_task(self.image(session, gateway.url))
                task.add_done_callback(lambda done: done.exception())
        scene.forgive()
        if comfy is not None:
            comfy.__exit__(None, None, None)

    async def image(self, session: aiohttp.ClientSession, url: str) -> None:
        """An image as OpenWebUI asks for one; that ComfyUI is gone is an answer, too."""
        try:
            async with asyncio.timeout(BOUND_S + 20):
                async with session.post(f"{url}/comfyui/prompt", json={"prompt": portrait()}) as answer:
                    text = await answer.text()
            self.ends["image asked" if answer.status == 200 else f"image {answer.status}"] += 1
            if "error" not in text and answer.status != 200:
                self.odd.append(f"image {answer.status} {text[:200]}")
                self.ends["UNCLASSIFIED"] += 1
        except TimeoutError:
            self.ends["LOST"] += 1


def _go_on(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGCONT)


def main() -> int:
    """Run it and judge it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--for", dest="seconds", type=parse_duration, help="instead of a number: «30m»")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--pause", type=float, default=0.05, help="a client's pause, at most, in seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = storm(given, Path(folder))
    print(json.dumps(found, indent=1))
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["broken"] else 0


def storm(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One storm and what is left after it."""
    manner = {"load_s": 0.2, "unload_s": 0.02, "compute_bytes": 64 << 20}
    # The fake Ollama lists what is named here: the files must not be among them, or a name would mean two.
    models = {name: {"model_bytes": size * GIB} for name, size in SERVED.items()}
    scene = Scenery(folder / "scene", card_bytes=CARD, manner=manner, models=models)
    for name, size in FILES.items():
        _file(folder / f"{name}.gguf", size)
    comfy_port = free_port()
    policy = POLICY.replace("COMFY", str(comfy_port))
    policy += "".join(f'{name} = "{folder / name}.gguf"\n' for name in FILES)
    with (
        QuickOllama(scene, slots=4) as ollama,
        narthex(
            folder / "narthex",
            ollama=ollama.url,
            engine=scene.program,
            policy=policy,
            more=("--vram", "20 GiB"),
        ) as gateway,
    ):
        _settle(gateway)
        before = _weight(gateway)
        run = Storm(given, folder)
        begin = time.monotonic()
        asyncio.run(run.run(scene, gateway, comfy_port))
        took = time.monotonic() - begin
        left = _emptied(gateway, scene)
        after = _weight(gateway)
        metrics = get(gateway.port, "/metrics")[1].decode()
        waits = _waits(folder / "narthex" / "state" / "gateway")
    orphans = [pid for pid in _processes(str(scene.path)) if pid != os.getpid()]
    broken = {
        word: count for word, count in run.ends.items() if word.split()[0].isupper() and word[0].isalpha()
    }
    if left:
        broken["LEFT OVER"] = len(left)
    if orphans:
        broken["ORPHANS"] = len(orphans)
    return {
        "requests": run.begun,
        "seconds": round(took, 1),
        "clients": given.clients,
        "seed": given.seed,
        "ends": dict(run.ends.most_common()),
        "chaos": dict(run.faults),
        "loads": _sum(metrics, "narthex_loads_total"),
        "failed_loads": _rows(metrics, "narthex_load_failures_total"),
        "evictions": _sum(metrics, "narthex_evictions_total"),
        "longest_request_s": round(run.longest_s, 2),
        "bound_s": BOUND_S,
        "longest_wait_served_s": waits,
        "starvation_s": STARVATION_S,
        "card_refused": scene.card and scene.card.refused(),
        "before": before,
        "after": after,
        "left": left,
        "odd": run.odd[:10],
        "broken": broken,
    }


def _file(path: Path, gib: int) -> None:
    """A model file of that size, all of it a hole."""
    width, count = 4096, 32
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": count,
        "llama.context_length": 8192,
        "llama.embedding_length": width,
        "llama.feed_forward_length": 11008,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.tokens": ["a", "b"],
    }
    each = gib * GIB // count // width // 2
    tensors = [(f"blk.{layer}.ffn_up.weight", (width, each), "F16") for layer in range(count)]
    write_gguf(path, metadata, [("token_embd.weight", (width, 2), "F16"), *tensors])


def _settle(gateway: Place) -> None:
    """One answer from each, so that what is loaded lazily is loaded before the weighing."""
    for name in (*SERVED, *FILES):
        body = {"model": name, "messages": [{"role": "user", "content": "hello"}], "stream": False}
        status, text = ask(gateway.port, "POST", "/api/chat", body)
        assert status == 200, f"{name}: {status} {text!r}"


def _emptied(gateway: Place, scene: Scenery) -> list[str]:
    """What is still held or waiting once everybody was told to go."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        state = json.loads(get(gateway.port, "/narthex/state")[1])
        for row in state["holdings"]:
            with contextlib.suppress(OSError):
                ask(gateway.port, "POST", "/narthex/release", {"model": row["key"]})
        held = dict(scene.card.held()) if scene.card else {}
        left = [f"{row['name']} {row['state']} {row['running']}" for row in state["holdings"]]
        left += [f"waiting: {row['wants']}" for row in state["waiting"]]
        left += [f"process {pid} holds {size}" for pid, size in held.items()]
        if not left:
            return []
        time.sleep(0.3)
    return left


def _weight(gateway: Place) -> dict[str, int]:
    pid = gateway.pid
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return {
        "rss_mib": rss // 1024,
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        "children": len(family(pid)) - 1,
    }


def _waits(folder: Path) -> float | None:
    """The longest that a request waited which was then served, in seconds."""
    longest = None
    for path in folder.glob("requests*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row.get("line") == "request" and row.get("key") and row.get("status", 200) < 400:
                longest = max(longest or 0.0, row.get("waited_s", 0.0))
    return longest


def _sum(metrics: str, name: str) -> float:
    rows = (line for line in metrics.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(line.rpartition(" ")[2]) for line in rows)


def _rows(metrics: str, name: str) -> dict[str, float]:
    rows = [line for line in metrics.splitlines() if line.startswith(f"{name}{{")]
    return {line.partition("{")[2].rpartition("}")[0]: float(line.rpartition(" ")[2]) for line in rows}


def _processes(words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
