"""The plan beside what a real llama-server says that it allocated, on the host and with a device."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.engines._base import LoadReport
from narthex.engines.llama_server import launch, probe
from narthex.host.listeners import listeners
from narthex.knobs import KnobValues
from narthex.memory.plan import Device, plan_memory
from narthex.models.gguf import inspect_file
from narthex.units import MIB

pytestmark = pytest.mark.engine

KNOBS = KnobValues(num_ctx=2048, gpu_layers=0, flash_attn="on")


@pytest.fixture
def endpoint(rpc_server_binary: Path, tmp_path: Path) -> Iterator[str]:
    """A ggml-rpc-server: to the engine a device like a GPU, with main memory of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "rpc.log").open("wb") as log:
        words = [str(rpc_server_binary), "-d", "CPU", "-p", str(port)]
        process = subprocess.Popen(words, stdout=log, stderr=log)
    until = time.monotonic() + 20
    while not listeners(port):
        assert time.monotonic() < until, "the RPC server did not start"
        time.sleep(0.05)
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


def loaded(engine: Path, model: Path, knobs: KnobValues, folder: Path, *more: str) -> LoadReport:
    running = launch(probe(engine, "flag", more), model, knobs, log_dir=folder)
    try:
        return running.report
    finally:
        running.stop()


def test_on_the_host_each_term_is_what_the_engine_took(
    engine_binary: Path, gemma: Path, tmp_path: Path
) -> None:
    report = loaded(engine_binary, gemma, KNOBS, tmp_path)
    host = Device(name="host", kind="host")
    plan = plan_memory(inspect_file(gemma), KNOBS, (host,), outputs="slots").devices[0]
    took = next(row for row in report.buffers if row.device == "Host")
    assert abs(plan.context_bytes - took.context_bytes) < MIB
    assert abs(plan.compute_bytes - took.compute_bytes) < 4 * MIB
    # weights that the CPU wants in another order are copied, beside the mapped file that holds them too
    assert plan.model_bytes <= took.model_bytes + MIB
    assert took.model_bytes < 1.1 * plan.model_bytes


def test_with_a_device_each_term_is_what_the_engine_took(
    engine_binary: Path, gemma: Path, endpoint: str, tmp_path: Path
) -> None:
    knobs = KNOBS.with_(gpu_layers=999)
    report = loaded(engine_binary, gemma, knobs, tmp_path, "--rpc", endpoint)
    gpu = Device(name="RPC0", kind="gpu")
    plan = plan_memory(inspect_file(gemma), knobs, (gpu,), outputs="slots").devices[0]
    took = next(row for row in report.buffers if row.device == "RPC0")
    assert report.offloaded_layers == plan_memory(inspect_file(gemma), knobs, (gpu,)).knobs.gpu_layers
    assert abs(plan.model_bytes - took.model_bytes) < 4 * MIB
    assert abs(plan.context_bytes - took.context_bytes) < MIB
    assert abs(plan.compute_bytes - took.compute_bytes) < 4 * MIB
