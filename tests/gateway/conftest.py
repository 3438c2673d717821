"""Gateways that several tests share."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .serving import Serving, cramped

BUDGET = "520M"  # one of the two models fits, and not both
POLICY = """
[gateway]
vram = "{budget}"
remember = "10m"

[roles]
first = "{folder}/first.gguf"
second = "{folder}/second.gguf"
huge = "{folder}/huge.gguf"
safe = ["{folder}/huge.gguf", "first"]

[models.first]
num_ctx = 1024
num_batch = 512

[models.second]
num_ctx = 1024
num_batch = 512

[models.huge]
num_ctx = 200000
"""


@pytest.fixture(scope="module")
def pair(gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with first.gguf, second.gguf, of another shape where it can be written, and huge.gguf, whose
    cache takes too much."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("first", "huge"):
        (folder / f"{name}.gguf").hardlink_to(gemma)
    script = Path(__file__).resolve().parents[3] / "shared" / "bench" / "synth_gguf.py"
    second = folder / "second.gguf"
    if script.exists() and importlib.util.find_spec("numpy"):
        shape = ["llama3.1-8b", str(second), "--layers", "2", "--width", "0.0625"]
        subprocess.run([sys.executable, str(script), *shape], check=True, stdout=subprocess.DEVNULL)
    else:
        second.hardlink_to(gemma)
    return folder


@pytest.fixture(scope="module")
def serving(pair: Path, engine_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A gateway without Ollama, whose budget holds one model, and whose engine has little memory."""
    folder = tmp_path_factory.mktemp("serving")
    engine = cramped(engine_binary, folder)
    policy = POLICY.format(folder=pair, budget=BUDGET)
    with Serving(folder, "--no-ollama", "--engine-path", str(engine), policy=policy) as found:
        yield found
