"""Real starts, real failures and real ends of a real llama-server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from narthex.engines._base import Engine, Failure, LaunchFailed, RunningEngine
from narthex.engines.llama_launch import free_port, launch
from narthex.engines.llama_running import STOP_S
from narthex.engines.llama_server import explain_exit, probe
from narthex.engines.oom import oom_kills
from narthex.host.listeners import listeners
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.testing.gguf_writer import write_gguf
from narthex.units import MIB

from .conftest import Wrapped, is_gone, wait_until

pytestmark = pytest.mark.engine

START = """
import sys, time
from pathlib import Path
from narthex.engines.llama_server import launch, probe
from narthex.knobs import KnobValues
engine = probe(sys.argv[1], "flag")
knobs = KnobValues(num_ctx=512, batch=512, gpu_layers=0, threads=2)
def watch(stage, share):
    print(stage, flush=True)
with launch(engine, sys.argv[2], knobs, log_dir=Path(sys.argv[3]), watch=watch) as server:
    print("ready", flush=True)
    time.sleep(1000)
"""


def failing(
    engine: Engine,
    model: Path,
    knobs: KnobValues,
    log_dir: Path,
    *,
    timeout_s: float = 600,
    stall_s: float = 120,
) -> Failure:
    """The failure of a start that must fail."""
    with pytest.raises(LaunchFailed) as caught:
        launch(engine, model, knobs, log_dir=log_dir, timeout_s=timeout_s, stall_s=stall_s).stop()
    return caught.value.failure


def servers_of(log_dir: Path) -> list[int]:
    """Processes of this test's llama-servers: those that listen on the port of a log file."""
    ports = [int(path.stem.rpartition("-")[2]) for path in log_dir.glob("*.log")]
    return [pid for port in ports for pid in listeners(port)]


def ask(server: RunningEngine) -> str:
    body = b'{"prompt": "The sky is", "n_predict": 4}'
    request = urllib.request.Request(f"{server.url}/completion", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        text: str = reply.read().decode()
        return text


def test_a_server_answers_reports_and_goes(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    stages: list[str] = []
    server = launch(engine, gemma, knobs, log_dir=tmp_path, watch=lambda stage, share: stages.append(stage))
    with server:
        assert '"content"' in ask(server)
        assert server.alive()
        assert server.failure() is None
        assert server.load_s > 0
        assert server.report.num_ctx == 512
        assert (server.report.offloaded_layers, server.report.total_layers) == (0, 19)
        assert server.report.buffers[0].model_bytes > 200 * MIB
        assert server.cards_before is None
        pid = server.pid
    assert is_gone(pid)
    report = server.stop()
    assert (report.exit_code, report.gentle, report.vram_back) == (0, True, None)
    assert server.failure() is None, "it was asked to stop"
    assert set(stages) == {"loading"}
    assert server.log_path is not None
    assert "listening on" in server.log_path.read_text()
    assert server.tail(1)


def test_layers_split_over_a_device_without_a_gpu(
    engine: Engine, gemma: Path, tmp_path: Path, rpc_server: Callable[[int | None], str]
) -> None:
    split = probe(engine.path, "flag", ("--rpc", rpc_server(None)))
    knobs = KnobValues(num_ctx=512, batch=512, gpu_layers=9, threads=2)
    with launch(split, gemma, knobs, log_dir=tmp_path) as server:
        assert '"content"' in ask(server)
        assert server.report.offloaded_layers == 9
        assert [row.device for row in server.report.buffers] == ["RPC0", "Host"]
        assert server.cards_before is None, "a remote device is no card of this machine"
    assert server.stop().gentle


@pytest.mark.parametrize(
    "size",
    [  # KiB for the device, context
        pytest.param((200_000, 512), id="weights"),
        pytest.param((500_000, 65_536), id="KV cache"),
        pytest.param((450_000, 16_384), id="the server gives up the connection"),
    ],
)
def test_a_device_that_is_too_small_is_out_of_memory(
    engine: Engine,
    gemma: Path,
    tmp_path: Path,
    rpc_server: Callable[[int | None], str],
    size: tuple[int, int],
) -> None:
    limit_kib, num_ctx = size
    small = probe(engine.path, "flag", ("--rpc", rpc_server(limit_kib)))
    knobs = KnobValues(num_ctx=num_ctx, gpu_layers=19, threads=2)
    failure = failing(small, gemma, knobs, tmp_path)
    assert failure.outcome is Outcome.OUT_OF_MEMORY
    assert failure.requested_bytes is not None
    assert failure.requested_bytes > 10 * MIB


def test_main_memory_that_is_too_small_is_out_of_memory(
    wrapped: Wrapped, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    engine = wrapped('ulimit -v 400000; exec SERVER "$@"')
    in_memory = msgspec.structs.replace(engine, extra_args=("--load-mode", "none"))
    failure = failing(in_memory, gemma, knobs, tmp_path)
    assert failure.outcome is Outcome.OUT_OF_MEMORY
    assert failure.requested_bytes == pytest.approx(222.51 * MIB, rel=0.001)


def test_a_kill_by_the_kernel_is_told_from_somebodys(
    wrapped: Wrapped, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    group = Path("/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup")
    group /= f"narthex-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        names = ("memory.limit_in_bytes", "memory.max")
        limit = next((file for name in names if (file := group / name).exists()), None)
        if limit is None:
            pytest.skip("the memory controller is not passed on to new cgroups here")
        limit.write_text(str(120 * MIB))
        engine = wrapped(f'echo $$ > {group}/cgroup.procs; exec SERVER "$@"')
        in_memory = msgspec.structs.replace(engine, extra_args=("--load-mode", "none"))
        failure = failing(in_memory, gemma, knobs, tmp_path)
    finally:
        group.rmdir()
    assert failure.exit_code == -signal.SIGKILL
    assert failure.outcome is Outcome.KILLED_BY_KERNEL
    assert "oom-killer" in failure.line


def test_somebodys_kill_is_no_memory_failure(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    if oom_kills() is None:
        pytest.skip("this kernel does not count its oom-kills")
    with launch(engine, gemma, knobs, log_dir=tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.alive())
        failure = server.failure()
        assert failure is not None
        assert (failure.outcome, failure.exit_code) == (Outcome.CRASHED, -signal.SIGKILL)
        assert "from outside" in failure.line


def test_ctrl_c_does_not_wait_for_a_server_that_will_not_go(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    server = launch(engine, gemma, knobs, log_dir=tmp_path)
    os.kill(server.pid, signal.SIGSTOP)  # SIGTERM waits, SIGKILL does not
    wait_until(lambda: ") T " in Path(f"/proc/{server.pid}/stat").read_text())
    server.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    stopped = server.stop()
    assert not stopped.gentle
    assert stopped.seconds < STOP_S / 2
    assert not server.alive()


def test_a_crash_of_a_running_server_is_told(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    with launch(engine, gemma, knobs, log_dir=tmp_path) as server:
        os.kill(server.pid, signal.SIGSEGV)
        wait_until(lambda: not server.alive())
        failure = server.failure()
        assert failure is not None
        assert failure.outcome is Outcome.CRASHED
        assert failure.line.startswith("SIGSEGV")


def test_a_build_that_crashes_in_its_repacked_kernels_is_started_without_them(
    wrapped: Wrapped, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    engine = wrapped('[[ "$*" == *--no-repack* ]] && exec SERVER "$@"; kill -SEGV $$')
    with launch(engine, gemma, knobs, log_dir=tmp_path) as server:
        assert "--no-repack" in server.report.gaps[0]
    again = launch(engine, gemma, knobs, log_dir=tmp_path)
    with again:
        assert "--no-repack" in again.report.gaps[0]
    assert len(list(tmp_path.glob("*.log"))) == 3, "the second start knew it"


def test_a_build_that_always_crashes_has_crashed(
    wrapped: Wrapped, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    failure = failing(wrapped("kill -SEGV $$"), gemma, knobs, tmp_path)
    assert (failure.outcome, failure.exit_code) == (Outcome.CRASHED, -signal.SIGSEGV)


def test_a_damaged_file_is_corrupt(engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path) -> None:
    start = gemma.open("rb").read(8_000_000)
    damages = {
        "cut in its weights": start,
        "cut in its header": start[:2_000_000],
        "no GGUF": b"JUNK" + start[4:],
        "a version of the future": start[:4] + (99).to_bytes(4, "little") + start[8:],
    }
    for damage, data in damages.items():
        model = tmp_path / "damaged.gguf"
        model.write_bytes(data)
        assert failing(engine, model, knobs, tmp_path).outcome is Outcome.CORRUPT_FILE, damage


def test_an_architecture_that_the_build_does_not_know(
    engine: Engine, knobs: KnobValues, tmp_path: Path
) -> None:
    metadata = {"general.architecture": "xyz", "xyz.block_count": 1, "xyz.context_length": 512}
    model = write_gguf(tmp_path / "new.gguf", metadata, [("token_embd.weight", (64, 100), "F16")])
    failure = failing(engine, model, knobs, tmp_path)
    assert failure.outcome is Outcome.UNSUPPORTED_ARCHITECTURE
    assert "'xyz'" in failure.line


def test_a_file_that_is_not_there_is_not_corrupt(engine: Engine, knobs: KnobValues, tmp_path: Path) -> None:
    failure = failing(engine, tmp_path / "gone.gguf", knobs, tmp_path)
    assert failure.outcome is Outcome.FAILED
    assert "No such file" in failure.line


def test_a_quantised_cache_without_flash_attention_is_refused(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    failure = failing(engine, gemma, knobs.with_(kv_type="q8_0", flash_attn="off"), tmp_path)
    assert failure.outcome is Outcome.UNSUPPORTED_SETTING


def test_a_flag_that_the_build_does_not_know(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    future = msgspec.structs.replace(engine, extra_args=("--warp", "9"))
    failure = failing(future, gemma, knobs, tmp_path)
    assert (failure.outcome, failure.line) == (Outcome.UNSUPPORTED_FLAG, "error: invalid argument: --warp")


def test_a_taken_port_is_told_by_the_engine(engine: Engine, gemma: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [engine.path, "-m", gemma, "--port", port], capture_output=True, text=True, check=False
        )
    failure = explain_exit((done.stdout + done.stderr).splitlines(), done.returncode, loaded=False)
    assert failure.outcome is Outcome.PORT_IN_USE


def test_a_port_that_is_lost_to_a_rival_is_tried_again(
    wrapped: Wrapped, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    """The first two starts find the port taken, by a stranger who even answers that it is healthy."""
    rival = tmp_path / "rival.py"
    rival.write_text(
        "import http.server, sys\n"
        "class Healthy(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Healthy).serve_forever()\n"
    )
    become = f'echo $$ >> rivals; exec {sys.executable} {rival} "$0"'
    engine = wrapped(
        f'port=$(sed "s/.*--port \\([0-9]*\\).*/\\1/" <<< "$*"); cd {tmp_path}; echo x >> starts; '
        f"if [ $(wc -l < starts) -le 2 ]; then ( setsid bash -c '{become}' $port > /dev/null 2>&1 & ); "
        'until (exec 3<> /dev/tcp/127.0.0.1/$port) 2> /dev/null; do sleep 0.05; done; fi; exec SERVER "$@"'
    )
    try:
        with launch(engine, gemma, knobs, log_dir=tmp_path) as server:
            assert '"content"' in ask(server)
        assert len((tmp_path / "starts").read_text().split()) == 3
    finally:
        for pid in (tmp_path / "rivals").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_an_engine_that_stands_still_is_stalled(
    wrapped: Wrapped, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    failure = failing(wrapped("echo hello; exec sleep 1000"), gemma, knobs, tmp_path, stall_s=1)
    assert failure.outcome is Outcome.STALLED
    assert "hello" in failure.line


def test_an_engine_that_works_too_long_is_late_and_not_stalled(
    wrapped: Wrapped, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    engine = wrapped("while :; do :; done")
    failure = failing(engine, gemma, knobs, tmp_path, stall_s=1, timeout_s=2.5)
    assert failure.outcome is Outcome.TIMEOUT


def test_a_program_that_is_not_there_is_a_failure_and_no_exception(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    gone = msgspec.structs.replace(engine, path=str(tmp_path / "gone"))
    failure = failing(gone, gemma, knobs, tmp_path)
    assert (failure.outcome, "No such file" in failure.line) == (Outcome.FAILED, True)


def test_a_knob_without_a_flag_fails_before_anything_starts(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    poor = msgspec.structs.replace(engine, flags=engine.flags - {"-ncmoe", "--n-cpu-moe"})
    failure = failing(poor, gemma, knobs.with_(cpu_moe=3), tmp_path)
    assert failure.outcome is Outcome.UNSUPPORTED_FLAG
    assert not list(tmp_path.glob("*.log"))


def test_two_servers_run_beside_each_other(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    with (
        launch(engine, gemma, knobs, log_dir=tmp_path) as one,
        launch(engine, gemma, knobs, log_dir=tmp_path) as two,
    ):
        assert one.url != two.url
        assert one.log_path != two.log_path
        assert one.alive()
        assert two.alive()


def test_a_start_in_a_thread_outlives_the_thread(
    engine: Engine, gemma: Path, knobs: KnobValues, tmp_path: Path
) -> None:
    """The kernel ties a parent's death signal to a thread: it must be none of narthex's."""
    started = []
    thread = threading.Thread(target=lambda: started.append(launch(engine, gemma, knobs, log_dir=tmp_path)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    with started[0] as server:
        assert server.alive()
        assert '"content"' in ask(server)


@pytest.mark.parametrize("stage", ["loading", "ready"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_outlives_narthex(
    engine: Engine, gemma: Path, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    narthex = subprocess.Popen(
        [sys.executable, "-c", START, engine.path, gemma, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert narthex.stdout is not None
    while narthex.stdout.readline().strip() != stage:
        pass
    wait_until(lambda: bool(servers_of(tmp_path)))
    pids = servers_of(tmp_path)
    os.killpg(narthex.pid, number)
    narthex.wait()
    wait_until(lambda: all(is_gone(pid) for pid in pids))


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", free_port()))
