"""Failures that really happen, on a real llama-server: the doctor names each from what is printed."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from narthex.doctor.finding import Finding
from narthex.engines.llama_launch import free_port
from narthex.testing.evidence import diagnosis_of
from narthex.testing.gguf_writer import write_gguf

pytestmark = pytest.mark.engine
KIB = 1024
Serve = Callable[..., str]
Words = tuple[str, ...]


@pytest.fixture
def serve(engine_binary: Path) -> Serve:
    """``serve(model, "-c", "512", address_space_kib=…)``: what a llama-server prints that has to fail."""

    def run(
        model: Path, *words: str, port: int | None = None, address_space_kib: int = 0, before: Words = ()
    ) -> str:
        def limit() -> None:
            size = address_space_kib * KIB
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        usual = ("--host", "127.0.0.1", "--port", str(port or free_port()), "-c", "512", "-fit", "off")
        done = subprocess.run(
            [*before, engine_binary, "-m", model, *usual, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            preexec_fn=limit if address_space_kib else None,
        )
        assert done.returncode != 0
        return done.stdout

    return run


def named(findings: Sequence[Finding], cause: str, *texts: str) -> Finding:
    """The first finding: that cause, and every line that it quotes is there."""
    assert [finding.cause for finding in findings[:1]] == [cause]
    first = findings[0]
    assert first.evidence
    for quote in first.evidence:
        assert any(quote.text in text.split("\n") for text in texts)
    return first


def diagnosed(log: str, cause: str) -> Finding:
    return named(diagnosis_of(llama_server_log=log).findings, cause, log)


def test_weights_that_a_device_can_not_take(
    serve: Serve, gemma: Path, rpc_server_binary: Path, tmp_path: Path
) -> None:
    port = free_port()
    words = f"ulimit -v 200000; exec {rpc_server_binary} -d CPU -p {port}"
    with (tmp_path / "rpc.log").open("w") as log:
        device = subprocess.Popen(["bash", "-c", words], stdout=log, stderr=log)
        try:
            until_it_listens(port)
            printed = serve(gemma, "--rpc", f"127.0.0.1:{port}", "-ngl", "19")
        finally:
            device.kill()
            device.wait()
    finding = diagnosed(printed, "vram_oom_on_load")
    assert "num_ctx" in str(finding.remedy)


@pytest.mark.parametrize(("limit_kib", "words"), [(900_000, ("-c", "262144")), (420_000, ())])
def test_main_memory_that_is_too_small(
    serve: Serve, gemma: Path, limit_kib: int, words: tuple[str, ...]
) -> None:
    printed = serve(gemma, "--no-mmap", *words, address_space_kib=limit_kib)
    diagnosed(printed, "host_ram_insufficient")


@pytest.mark.parametrize("count", [0, 1_000_000, 100_000_000])
def test_a_model_file_that_was_cut(serve: Serve, gemma: Path, tmp_path: Path, count: int) -> None:
    short = tmp_path / "short.gguf"
    with gemma.open("rb") as whole:
        short.write_bytes(whole.read(count))
    diagnosed(serve(short), "gguf_invalid_or_corrupt")


def test_a_download_that_is_a_page_of_html(serve: Serve, tmp_path: Path) -> None:
    page = tmp_path / "model.gguf"
    page.write_text("<!doctype html><title>Log in</title>" * 50)
    diagnosed(serve(page), "gguf_invalid_or_corrupt")


def test_an_architecture_that_this_engine_does_not_know(serve: Serve, tmp_path: Path) -> None:
    model = tmp_path / "tomorrow.gguf"
    write_gguf(model, {"general.architecture": "tomorrow9"}, [])
    finding = diagnosed(serve(model), "model_needs_newer_runtime")
    assert "tomorrow9" in finding.why


def test_a_model_that_is_not_there(serve: Serve, tmp_path: Path) -> None:
    diagnosed(serve(tmp_path / "nosuch.gguf"), "model_not_found")


def test_a_model_in_a_folder_that_the_service_may_not_enter(
    serve: Serve, gemma: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    model = closed / "model.gguf"
    model.symlink_to(gemma)
    closed.chmod(0)
    # Root may enter every folder, unless it gives that up.
    rights = "--bounding-set=-dac_override,-dac_read_search"
    diagnosed(serve(model, before=("setpriv", rights) if os.getuid() == 0 else ()), "models_dir_permission")


def test_a_port_that_is_taken(serve: Serve, gemma: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = diagnosed(serve(gemma, port=port), "port_in_use")
    assert str(port) in finding.why + finding.title


@pytest.mark.parametrize(
    "words",
    [("-ctk", "q9_9"), ("-ctv", "q4_0", "-fa", "off")],
    ids=["unknown cache type", "no flash attention"],
)
def test_a_setting_that_the_engine_refuses(serve: Serve, gemma: Path, words: tuple[str, ...]) -> None:
    diagnosed(serve(gemma, *words), "bad_server_setting")


@pytest.fixture
def killed(engine_binary: Path, gemma: Path, tmp_path: Path) -> str:
    """What a shell and its llama-server print when that is killed."""
    port = free_port()
    words = f"{engine_binary} -m {gemma} --port {port} -c 512; exit $?"
    path = tmp_path / "killed.log"
    with path.open("w") as log:
        shell = subprocess.Popen(["bash", "-c", words], stdout=log, stderr=log, start_new_session=True)
        until_it_listens(port)
        (server,) = map(int, Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split())
        os.kill(server, signal.SIGKILL)
        assert shell.wait() == 128 + signal.SIGKILL
    return path.read_text()


def test_a_killed_server_is_a_suspicion_until_the_kernel_confirms_it(killed: str) -> None:
    alone = diagnosed(killed, "host_oom_kill")
    kernel = (
        "[ 5022.1] Out of memory: Killed process 4711 (llama-server) total-vm:9000000kB, anon-rss:8000000kB"
    )
    both = diagnosis_of(llama_server_log=killed, dmesg=kernel).findings
    sure = named(both, "host_oom_kill", killed, kernel)
    assert sure.confidence > max(alone.confidence, 0.8)


def until_it_listens(port: int) -> None:
    """Wait for a server."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")
