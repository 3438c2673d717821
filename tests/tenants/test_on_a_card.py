"""Tenants that really hold memory of a card."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.tenants.comfyui import ComfyTenant
from narthex.tenants.command import CommandTenant
from narthex.testing.fake_comfyui import portrait

GIB = 2**30
CONTEXT = GIB  # a CUDA context is smaller than that

pytestmark = pytest.mark.gpu

HOLD = """
import time
from narthex.testing.cuda_memory import CudaMemory
held = CudaMemory(2 * 2**30)
assert held.held
time.sleep(2)
"""


@pytest.fixture(autouse=True)
def a_card() -> None:
    from narthex.host.gpu import read_gpus

    if not read_gpus(processes=False)[0]:
        pytest.skip("no NVIDIA GPU here")


def quiet(stage: str, share: float | None) -> None:
    """Nobody watches."""


@pytest.fixture
def url() -> Iterator[str]:
    """A fake ComfyUI in a process of its own: two GiB of models, one on top while it computes."""
    words = ["--work", "3", "--model", "2GiB", "--on-top", "1GiB"]
    command = [sys.executable, "-m", "narthex.testing.fake_comfyui", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


def test_the_peak_of_a_comfyui_is_its_models_and_the_work_on_top(url: str, tmp_path: Path) -> None:
    workflow = tmp_path / "portrait.json"
    workflow.write_text(json.dumps(portrait()))
    tenant = ComfyTenant("comfyui", url, workflow)
    peak = tenant.measure(quiet)
    assert peak.bytes is not None
    assert 3 * GIB <= peak.bytes <= 3 * GIB + CONTEXT
    held = tenant.held_bytes()
    assert held is not None
    assert 2 * GIB <= held <= 2 * GIB + CONTEXT


def test_the_peak_of_a_command_is_what_it_held() -> None:
    peak = CommandTenant("render", (sys.executable, "-c", HOLD)).measure(quiet)
    assert peak.bytes is not None
    assert 2 * GIB <= peak.bytes <= 2 * GIB + CONTEXT
