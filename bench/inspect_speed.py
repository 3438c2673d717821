"""How long it takes to read the header of a model with a vocabulary of 262,208 tokens.

    python bench/inspect_speed.py [--repeats 15] [--file MODEL.gguf]

Two readers take turns on one file in the page cache: ``narthex`` (the whole ``inspect_file``, identity and
projector included) and a plain walk over the same bytes in Python. Then the whole process, which is what a
person waits for, and the reader of the ``gguf`` package where it is installed (3 times: it takes seconds).
Prints one table of medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narthex.models.gguf import inspect_file
from narthex.testing.gguf_writer import Tensor, Typed, write_gguf

VOCABULARY = 262_208
BUDGET_MS = 50
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def model_file(path: Path) -> Path:
    """A header of the shape of Gemma 3 4B, weights left out."""
    words = [f"\u2581w{number}" for number in range(VOCABULARY)]
    metadata: dict[str, Any] = {
        "general.architecture": "gemma3",
        "gemma3.block_count": 34,
        "gemma3.context_length": 131_072,
        "gemma3.embedding_length": 2560,
        "gemma3.feed_forward_length": 10_240,
        "gemma3.attention.head_count": 8,
        "gemma3.attention.head_count_kv": 4,
        "gemma3.attention.key_length": 256,
        "gemma3.attention.value_length": 256,
        "gemma3.attention.sliding_window": 1024,
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [-float(number) for number in range(VOCABULARY)],
        "tokenizer.ggml.token_type": Typed("i32", [1] * VOCABULARY),
    }
    tensors: list[Tensor] = [("token_embd.weight", (2560, VOCABULARY), "Q6_K")]
    for layer in range(34):
        rows = {"attn_q": 2048, "attn_k": 1024, "attn_v": 1024, "ffn_gate": 10_240, "ffn_up": 10_240}
        tensors += [(f"blk.{layer}.{name}.weight", (2560, size), "Q4_K") for name, size in rows.items()]
        tensors += [(f"blk.{layer}.attn_output.weight", (2048, 2560), "Q4_K")]
        tensors += [(f"blk.{layer}.ffn_down.weight", (10_240, 2560), "Q6_K")]
        norms = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
        tensors += [(f"blk.{layer}.{name}.weight", (2560,), "F32") for name in norms]
    return write_gguf(path, metadata, tensors)


def plain_walk(path: Path) -> int:
    """The metadata walked value by value, nothing kept: the least that a reader in plain Python does."""
    with path.open("rb") as file:
        data = file.read(16 * 2**20)
    u32, u64 = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from
    at = 24
    for _ in range(u64(data, 16)[0]):
        at += 8 + u64(data, at)[0]
        kind, count = u32(data, at)[0], 1
        at += 4
        if kind == 9:
            kind, count = u32(data, at)[0], u64(data, at + 4)[0]
            at += 12
        if kind == 8:
            for _ in range(count):
                at += 8 + u64(data, at)[0]
        else:
            at += count * SIZES[kind]
    for _ in range(u64(data, 8)[0]):
        at += 8 + u64(data, at)[0]
        at += 4 + 8 * u32(data, at)[0] + 12
    return at


def whole_process(path: Path) -> None:
    """``narthex inspect --json`` from start to end."""
    subprocess.run(
        [sys.executable, "-m", "narthex", "inspect", str(path), "--json"], check=True, capture_output=True
    )


def measure(readers: dict[str, Callable[[Path], object]], path: Path, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each reader, taken in turns so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            read(path)
            if turn:  # the first turn fills the page cache and the imports
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--file", type=Path, help="a model of your own instead")
    options = parser.parse_args()
    readers: dict[str, Callable[[Path], object]] = {
        "narthex inspect_file": inspect_file,
        "plain walk in Python": plain_walk,
    }
    package = importlib.import_module("gguf") if importlib.util.find_spec("gguf") else None
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or model_file(Path(folder) / "model.gguf")
        times = measure(readers, path, options.repeats)
        times |= measure({"narthex inspect --json (process)": whole_process}, path, min(options.repeats, 7))
        if package:
            times |= measure({"gguf package, GGUFReader": package.GGUFReader}, path, 3)
    print(f"{'reader':34}{'median':>10}{'fastest':>10}{'slowest':>10}")
    for name, found in times.items():
        print(f"{name:34}{statistics.median(found):7.1f} ms{min(found):7.1f} ms{max(found):7.1f} ms")
    if not package:
        print(f"{'gguf package, GGUFReader':34}not installed (pip install gguf)")
    own = statistics.median(times["narthex inspect_file"])
    print(f"\nbudget {BUDGET_MS} ms: {'met' if own <= BUDGET_MS else 'MISSED'}")


if __name__ == "__main__":
    main()
