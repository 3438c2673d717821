"""How long the doctor takes for long logs, and how much memory: reading and rules together.

    python bench/doctor_speed.py [--mib 100] [--json FILE] [--signs 8]

It writes made-up logs of realistic lines into a temporary folder: «ordinary» (requests, now and then a load),
«dense» (loads, warnings and failures all the time, hardly any line without a sign) and «mixed» (a Compose log
of two services in turns). Each is diagnosed in a process of its own, whose peak memory is taken. For
comparison: plain reading of the file, and ``grep -c`` for one word.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
BLOB = "/usr/share/ollama/.ollama/models/blobs/sha256-"
CALLS = ('POST     "/api/chat"', 'POST     "/api/generate"', 'GET      "/api/tags"', 'HEAD     "/"')


class Writer:
    """Lines of one day after the other, with a clock that goes on."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.models = [f"{self.dice.getrandbits(256):064x}" for _ in range(9)]
        self.seconds = 0.0

    def slog(self, level: str, source: str, words: str) -> str:
        self.seconds += self.dice.random() / 4
        day, rest = divmod(int(self.seconds), 86400)
        stamp = f"2026-{1 + day // 28 % 12:02}-{1 + day % 28:02}T{rest // 3600:02}:{rest // 60 % 60:02}:"
        milli = int(self.seconds * 1000) % 1000
        return f"time={stamp}{rest % 60:02}.{milli:03}+02:00 level={level} source={source} {words}"

    def request(self, status: int = 200) -> str:
        self.seconds += self.dice.random() * 3
        day, rest = divmod(int(self.seconds), 86400)
        stamp = f"2026/{1 + day // 28 % 12:02}/{1 + day % 28:02} - {rest // 3600:02}:{rest // 60 % 60:02}:"
        took = f"{self.dice.uniform(0.1, 40):.9f}s"
        call = self.dice.choice(CALLS)
        return f"[GIN] {stamp}{rest % 60:02} | {status} | {took:>13} |       127.0.0.1 | {call}"

    def start(self) -> Iterator[str]:
        yield self.slog("INFO", "routes.go:1350", 'msg="Listening on 127.0.0.1:11434 (version 0.11.10)"')
        yield self.slog("INFO", "gpu.go:217", 'msg="looking for compatible GPUs"')
        yield self.slog(
            "INFO",
            "types.go:131",
            'msg="inference compute" id=GPU-8f2a library=cuda variant=v12 compute=8.6 driver=12.4 '
            'name="NVIDIA GeForce RTX 3090" total="23.6 GiB" available="23.3 GiB"',
        )

    def load(self, failed: bool = False) -> Iterator[str]:
        blob = BLOB + self.dice.choice(self.models)
        layers = self.dice.choice((33, 41, 65))
        on = layers if self.dice.random() < 0.7 else layers // 2
        yield self.slog(
            "INFO",
            "server.go:543",
            f"msg=offload library=cuda layers.requested=-1 layers.model={layers} layers.offload={on} "
            'layers.split="" memory.available="[22.9 GiB]" memory.gpu_overhead="0 B" '
            'memory.required.full="9.1 GiB" memory.required.partial="9.1 GiB" memory.required.kv="1.2 GiB"',
        )
        yield self.slog(
            "INFO",
            "server.go:438",
            f'msg="starting llama server" cmd="/usr/bin/ollama runner --model {blob} --ctx-size 8192 '
            '--batch-size 512 --n-gpu-layers 33 --parallel 1 --port 39011"',
        )
        for number in range(12):
            yield f"llama_model_loader: - kv  {number:2}:   llama.attention.head_count_kv u32 = {number}"
        yield f"load_tensors: offloaded {on}/{layers} layers to GPU"
        yield f"load_tensors:        CUDA0 model buffer size =  {self.dice.uniform(3000, 9000):.2f} MiB"
        yield "llama_context: n_ctx_per_seq (8192) < n_ctx_train (131072) -- the full capacity is not used"
        yield f"llama_kv_cache_unified:      CUDA0 KV buffer size =  {self.dice.uniform(300, 2000):.2f} MiB"
        yield f"llama_context:      CUDA0 compute buffer size =   {self.dice.uniform(200, 700):.2f} MiB"
        if failed:
            yield "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4155.99 MiB on device 0: " + (
                "cudaMalloc failed: out of memory"
            )
            yield self.slog(
                "INFO",
                "sched.go:518",
                f'msg="Load failed" model={blob} error="llama runner process has terminated: exit status 2"',
            )
            yield self.request(500)
        else:
            took = f"{self.dice.uniform(1, 9):.2f}"
            yield self.slog("INFO", "server.go:1288", f'msg="llama runner started in {took} seconds"')

    def warnings(self) -> Iterator[str]:
        prompt = self.dice.randrange(5000, 90000)
        yield self.slog(
            "WARN",
            "runner.go:152",
            f'msg="truncating input prompt" limit=4096 prompt={prompt} keep=5 new=4096',
        )
        yield self.slog(
            "WARN",
            "server.go:1238",
            'msg="client connection closed before server finished loading, aborting load"',
        )
        yield self.slog(
            "WARN",
            "sched.go:649",
            'msg="gpu VRAM usage didn\'t recover within timeout" seconds=5.15 runner.size="5.7 GiB"',
        )
        yield self.slog(
            "INFO",
            "sched.go:627",
            'msg="updated VRAM based on existing loaded models" gpu=GPU-8f2a library=CUDA total="23.6 GiB" '
            'available="2.1 GiB"',
        )

    def front_end(self) -> str:
        return (
            f"2026-02-10 14:{self.dice.randrange(60):02}:11.413 | INFO     | uvicorn.protocols.http."
            f'httptools_impl:send:476 - 172.18.0.1:{self.dice.randrange(30000, 60000)} - "GET /api/models '
            'HTTP/1.1" 200 - {}'
        )


def ordinary(writer: Writer) -> Iterator[str]:
    """A server that works: requests, a load now and then, chatter of the runner."""
    yield from writer.start()
    while True:
        yield from writer.load()
        for number in range(400):
            yield writer.request()
            if number % 4 == 0:
                yield f"slot print_timing: id  0 | task {number} | prompt eval time = 457.51 ms / 28 tokens"
                yield f"slot      release: id  0 | task {number} | stop processing: n_tokens = 12"


def dense(writer: Writer) -> Iterator[str]:
    """Nothing but loads, failures, warnings and requests."""
    yield from writer.start()
    while True:
        yield from writer.load(failed=writer.dice.random() < 0.3)
        yield from writer.warnings()
        yield writer.request(writer.dice.choice((200, 499, 500, 503)))


def mixed(writer: Writer) -> Iterator[str]:
    """Compose: Ollama and OpenWebUI in turns."""
    ollama = ordinary(writer)
    while True:
        yield f"ollama-1      | {next(ollama)}"
        yield f"open-webui-1  | {writer.front_end()}"


MIXES: dict[str, Callable[[Writer], Iterator[str]]] = {"ordinary": ordinary, "dense": dense, "mixed": mixed}


def write(path: Path, mix: str, size: int) -> int:
    """A log of at least so many bytes; returns its lines."""
    lines = total = 0
    with path.open("w", encoding="utf-8") as file:
        for line in MIXES[mix](Writer(7)):
            total += file.write(line + "\n")
            lines += 1
            if total >= size:
                return lines
    return lines


def measure(path: Path, signs: int) -> None:
    """Diagnose one file and print the figures: runs in a process of its own."""
    from narthex.doctor.diagnose import diagnose
    from narthex.doctor.reading.scanner import read_evidence
    from narthex.doctor.reading.text import Text
    from narthex.doctor.rules import RULES, SIGNS

    begin = time.perf_counter()
    evidence = read_evidence([Text(kind="ollama_log", name=path.name, path=path)], SIGNS)
    read = time.perf_counter()
    diagnosis = diagnose(evidence, RULES)
    done = time.perf_counter()
    often = sorted(SIGNS, key=evidence.count, reverse=True)[:signs]
    print(
        json.dumps(
            {
                "lines": evidence.sources[0].lines,
                "read_s": read - begin,
                "rules_s": done - read,
                "cpu_s": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "findings": [finding.cause for finding in diagnosis.findings],
                "signs": {repr(sign): evidence.count(sign) for sign in often},
            }
        )
    )


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def read_plainly(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(MIB):
            pass


def main() -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--signs", type=int, default=0, help="also tell the signs that are found most")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure(asked.one, asked.signs)
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for mix in MIXES:
            path = Path(folder) / f"{mix}.log"
            write(path, mix, asked.mib * MIB)
            plain_s = timed(lambda path=path: read_plainly(path))  # type: ignore[misc]
            grep = ["grep", "-c", "-i", "error", str(path)]
            grep_s = timed(lambda grep=grep: subprocess.run(grep, stdout=subprocess.DEVNULL, check=False))  # type: ignore[misc]
            words = [sys.executable, __file__, "--one", str(path), "--signs", str(asked.signs)]
            begin = time.perf_counter()
            answer = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
            row = json.loads(answer)
            row |= {"total_s": time.perf_counter() - begin, "plain_s": plain_s, "grep_s": grep_s}
            row["mib_per_s"] = path.stat().st_size / MIB / (row["read_s"] + row["rules_s"])
            rows[mix] = row
            path.unlink()
    _print(rows)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


COLUMNS = ("lines", "read_s", "rules_s", "total_s", "cpu_s", "mib_per_s", "peak_mib", "plain_s", "grep_s")


def _print(rows: dict[str, dict[str, object]]) -> None:
    print(" | ".join(("log      ", *(f"{name:>9}" for name in COLUMNS))))
    for mix, row in rows.items():
        figures = {name: float(str(value)) for name, value in row.items() if isinstance(value, int | float)}
        cells = (
            f"{figures[name]:9.2f}" if name.endswith("_s") else f"{figures[name]:9.0f}" for name in COLUMNS
        )
        print(" | ".join((f"{mix:9}", *cells)))
        signs = row["signs"]
        assert isinstance(signs, dict)
        for name, count in signs.items():
            print(f"            {count:8}  {name[:120]}")


if __name__ == "__main__":
    main()
