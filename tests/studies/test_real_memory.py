"""A real offload device with too little memory: real allocation failures, backed off one at a time."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from narthex.knobs import KnobValues

LIMIT_KIB = 400_000  # of address space: a layer or three of the 270M model, not all of them


@pytest.fixture
def small_device(rpc_server_binary: Path, tmp_path: Path) -> Iterator[str]:
    """Address of an RPC device that may not allocate enough."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"ulimit -v {LIMIT_KIB}; exec '{rpc_server_binary}' -d CPU -p {port}"
    log = tmp_path / "rpc-server.log"  # the engine only hears that its server broke off; the log tells why
    with (
        log.open("wb") as output,
        subprocess.Popen(["bash", "-c", command], stdout=output, stderr=output) as server,
    ):
        for _ in range(100):
            if server.poll() is not None:
                pytest.skip("the RPC server does not start in so little memory here")
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
        server.terminate()


@pytest.mark.engine
@pytest.mark.slow
def test_a_study_backs_off_from_real_failures_until_it_runs(
    gemma: Path, engine_binary: Path, small_device: str
) -> None:
    words = "--goal fastest --ctx 2048 --depth 64 --prompt-tokens 64 --generate 16 --soak 0 --max-loads 11"
    command = [sys.executable, "-m", "narthex", "tune", str(gemma), "--json", *words.split()]
    command += ["--engine-path", str(engine_binary), "--engine-arg=--rpc", f"--engine-arg={small_device}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    failed = [row for row in answer["trials"] if row["outcome"] == "out_of_memory"]
    assert failed
    assert all(row["reason"] for row in failed)
    assert answer["profile"]["knobs"]["gpu_layers"] < 19
    backoffs = [row for row in answer["decisions"] if row["kind"] == "backoff"]
    assert backoffs
    assert all(row["evidence"] for row in backoffs)
    steps = {json.dumps(row["knobs"]) for row in backoffs}
    for before, after in pairwise(row for row in answer["trials"] if row["purpose"] == "search"):
        if json.dumps(after["knobs"]) in steps and before["outcome"] != "done":
            assert len(KnobValues(**before["knobs"]).difference(KnobValues(**after["knobs"]))) == 1
