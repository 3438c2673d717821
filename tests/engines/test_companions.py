"""The servers that an engine computes on are found with their logs, without being told where these lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from narthex.engines.companions import CompanionLog, companion_logs, endpoints
from narthex.engines.llama_launch import free_port
from narthex.host.listeners import listeners


def test_endpoints_are_read_in_every_way_to_write_them() -> None:
    words = ["-x", "--rpc", "127.0.0.1:1,10.0.0.2:2", "--rpc=[::1]:3", "--rpcs", "no"]
    assert endpoints(words) == ["127.0.0.1:1", "10.0.0.2:2", "[::1]:3"]


@pytest.mark.engine
def test_the_log_of_a_server_on_this_machine_is_found(
    rpc_server: Callable[[int | None], str], tmp_path: Path
) -> None:
    endpoint = rpc_server(None)
    port = endpoint.rpartition(":")[2]
    (log,) = companion_logs(("--rpc", endpoint))
    assert log.path == tmp_path / f"rpc-{port}.log"
    assert len(listeners(int(port))) == 1


def test_a_server_elsewhere_and_one_that_is_not_there_have_no_log() -> None:
    assert companion_logs(("--rpc", f"10.0.0.2:50052,127.0.0.1:{free_port()}")) == ()
    assert companion_logs(()) == ()


def test_only_new_lines_count_and_a_log_that_began_anew_is_all_new(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    log = CompanionLog("127.0.0.1:1", path, start=4)
    assert log.new_lines() == []
    path.write_text("old\nnew\n")
    assert log.new_lines() == ["new"]
    path.write_text("x\n")
    assert log.new_lines() == ["x"]
    path.unlink()
    assert log.new_lines() == []
