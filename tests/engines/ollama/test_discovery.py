"""Finding an Ollama: real processes, containers of a fake daemon, other programs on its port."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.engines.ollama import processes
from narthex.engines.ollama.address import parse_host
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.discovery import engine_of, find_server, find_servers, look
from narthex.engines.ollama.log import last_load_command
from narthex.engines.ollama.logs import open_log
from narthex.engines.ollama.records import Server
from narthex.errors import EngineError, EngineNotFound, UsageError
from narthex.host.facts import GpuFacts, HostFacts
from narthex.testing.docker.container import Command
from narthex.testing.docker.forward import Forward
from narthex.testing.fake_docker import FakeDocker
from narthex.testing.fake_ollama import FakeOllama, add_model

from .little import VERSION, daemon, facts, free_port, little_ollama, url_of


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address in the environment, and no Docker."""
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with daemon() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        yield fake


def card(index: int, name: str = "NVIDIA H100 80GB HBM3") -> GpuFacts:
    return GpuFacts(
        index=index,
        uuid=f"GPU-{index}a",
        name=name,
        total_bytes=80 << 30,
        free_bytes=79 << 30,
        used_bytes=1 << 30,
    )


def host(*gpus: GpuFacts) -> HostFacts:
    return HostFacts(
        hostname="box",
        os="Linux",
        cpu_model=None,
        physical_cores=2,
        logical_cores=2,
        load_1m=None,
        ram_total_bytes=1,
        ram_available_bytes=1,
        driver=None,
        gpus=gpus,
        gaps=(),
        key="k",
    )


def test_a_process_is_found_with_version_era_log_and_settings(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with little_ollama({"OLLAMA_NUM_PARALLEL": "2", "LLAMA_ARG_RPC": "box:1"}, log=log) as (port, pid):
        server = find_server(f"127.0.0.1:{port}")
    assert server.url == f"http://127.0.0.1:{port}"
    assert (server.version, server.era, server.source) == (VERSION, "F", "flag")
    assert (server.place, server.pid, server.container, server.unit) == ("process", pid, None, None)
    assert server.log == f"file:{log}"
    assert server.env["OLLAMA_NUM_PARALLEL"] == "2"
    assert server.env["LLAMA_ARG_RPC"] == "box:1"  # not in the log, so from the process
    assert server.env_source == "log"
    assert "OLLAMA_FLASH_ATTENTION" not in server.env  # the log's «false» is «not set»


def test_without_a_log_the_settings_are_the_processes() -> None:
    with little_ollama({"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_API_KEY": "secret"}) as (port, _):
        server = find_server(f":{port}")
    assert server.env_source == "process"
    assert server.env["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert "secret" not in str(server)
    assert server.log == ""
    assert any("NARTHEX_OLLAMA_LOG" in gap for gap in server.gaps)


def test_the_order_is_flag_then_environment_then_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with little_ollama() as (one, _), little_ollama() as (two, _), little_ollama() as (three, _):
        monkeypatch.setenv("OLLAMA_HOST", f"0.0.0.0:{two}")
        (tmp_path / "narthex.toml").write_text(f'[ollama]\nhost = "127.0.0.1:{three}"\n')
        assert find_server(f":{one}").url.endswith(f":{one}")
        server = find_server()
        assert (server.url, server.source) == (f"http://127.0.0.1:{two}", "OLLAMA_HOST")
        monkeypatch.delenv("OLLAMA_HOST")
        server = find_server()
        assert (server.url, server.source) == (f"http://127.0.0.1:{three}", "narthex.toml")


def test_what_was_named_and_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with little_ollama():
        with pytest.raises(EngineNotFound, match=str(port)) as caught:
            find_server(f":{port}")
        assert "--ollama" in caught.value.hint
        monkeypatch.setenv("OLLAMA_HOST", f":{port}")
        with pytest.raises(EngineNotFound, match="OLLAMA_HOST names that address"):
            find_server()


def test_the_port_of_plain_http_is_explained() -> None:
    with pytest.raises(EngineNotFound) as caught:
        find_server("http://no.such.host.invalid")
    assert "means port 80" in caught.value.hint


def test_an_impossible_address_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        find_server("ftp://box")


@pytest.mark.parametrize("answer", ["<html><body>nginx</body></html>", '{"name": "another program"}'])
def test_another_program_on_the_port_is_a_clear_error(answer: str) -> None:
    with little_ollama({"LITTLE_ANSWER": answer}) as (port, _), pytest.raises(EngineError) as caught:
        find_server(f":{port}")
    assert "not Ollama" in caught.value.message
    assert not isinstance(caught.value, EngineNotFound)


@pytest.mark.parametrize(
    ("version", "era"), [("0.1.20", "A"), ("0.5.1", "C"), ("0.12.3", "E"), ("0.0.0", "F")]
)
def test_the_era_comes_from_the_version(version: str, era: str) -> None:
    with little_ollama({"LITTLE_VERSION": version}) as (port, _):
        assert find_server(f":{port}").era == era


def test_behind_a_tunnel_the_server_is_elsewhere() -> None:
    with little_ollama({"LITTLE_NAME": "ssh"}) as (port, _):
        server = find_server(f":{port}")
    assert (server.place, server.pid, server.store) == ("elsewhere", None, None)
    assert any("«ssh», no Ollama" in gap for gap in server.gaps)
    engine = engine_of(server, host(card(0)), None)
    assert engine.devices == ()
    assert any("--vram" in gap for gap in engine.gaps)


def test_the_log_of_a_server_elsewhere_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "copied.log"
    with little_ollama({"LITTLE_NAME": "ssh", "OLLAMA_CONTEXT_LENGTH": "8192"}, log=log) as (port, _):
        monkeypatch.setenv("NARTHEX_OLLAMA_LOG", f"file:{log}")
        server = find_server(f":{port}")
    assert (server.log, server.env_source) == (f"file:{log}", "log")
    assert server.env["OLLAMA_CONTEXT_LENGTH"] == "8192"


def test_a_container_is_found_by_its_published_port(docker: FakeDocker) -> None:
    container = docker.add(facts("run"))
    server = find_once(url_of(container))
    assert server.place == "container"
    assert server.container is not None
    assert (server.container.name, server.container.id) == ("ollama", container.id)
    assert server.pid == container.facts()["State"]["Pid"]
    assert server.log == "docker:ollama"
    assert server.env_source == "log"
    assert server.env["OLLAMA_FLASH_ATTENTION"] == "true" or server.env["OLLAMA_FLASH_ATTENTION"] == "1"


def test_a_containers_memory_limit_is_the_servers(docker: FakeDocker) -> None:
    told = facts("run")
    told["HostConfig"]["Memory"] = 1 << 28
    assert find_once(url_of(docker.add(told))).memory_bytes == 1 << 28


def find_once(url: str) -> Server:
    """As soon as it answers: a container's program takes a moment."""
    from .little import answers

    answers(url)
    return find_server(url)


def test_without_being_told_a_container_is_found(docker: FakeDocker) -> None:
    usual_is_free()
    container = docker.add(facts("run"))
    find_once(url_of(container))
    server = find_server()
    assert (server.source, server.url) == ("container", url_of(container))


def usual_is_free() -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 11434)) == 0:
            pytest.skip("an Ollama runs here at its usual address")


def test_a_container_whose_log_can_not_be_read_has_a_gap(docker: FakeDocker) -> None:
    container = docker.add(facts("run"))
    docker.refuse("logs", 501, "configured logging driver does not support reading")
    server = find_once(url_of(container))
    assert server.log == ""
    assert any("does not support reading" in gap for gap in server.gaps)
    assert server.env_source in ("process", "container")
    assert server.env["OLLAMA_KEEP_ALIVE"] == "30m"


def test_a_container_of_another_machine_is_elsewhere(docker: FakeDocker) -> None:
    container = docker.add(facts("run"))
    find_once(url_of(container))
    container.facts()["State"]["Pid"] = 1
    server = find_server(url_of(container))
    assert (server.place, server.log) == ("elsewhere", "docker:ollama")
    assert server.container is not None


def test_a_stopped_container_is_named_with_the_command_that_starts_it(docker: FakeDocker) -> None:
    usual_is_free()
    docker.add(facts("compose"), start=False)
    with pytest.raises(EngineNotFound) as caught:
        find_server()
    assert "stack-llm-1" in caught.value.message
    assert "docker start stack-llm-1" in caught.value.hint
    with pytest.raises(EngineNotFound) as caught:
        find_server(f":{free_port()}")
    assert "docker start stack-llm-1" in caught.value.hint


def test_a_paused_container_is_let_go_on(docker: FakeDocker) -> None:
    usual_is_free()
    docker.add(facts("run"), start=False).facts()["State"]["Status"] = "paused"
    with pytest.raises(EngineNotFound) as caught:
        find_server()
    assert "docker unpause ollama" in caught.value.hint


def test_a_port_that_is_not_published_is_explained(docker: FakeDocker) -> None:
    usual_is_free()
    told = facts("run")
    told["HostConfig"]["PortBindings"] = {}
    told["NetworkSettings"] |= {"IPAddress": "", "Networks": {}}
    docker.add(told)
    with pytest.raises(EngineNotFound) as caught:
        find_server()
    assert "not published" in caught.value.hint


def test_a_container_that_runs_and_does_not_answer_is_looked_into(docker: FakeDocker) -> None:
    usual_is_free()
    container = docker.add(facts("run"))
    find_once(url_of(container))
    os.kill(container.facts()["State"]["Pid"], signal.SIGSTOP)
    with pytest.raises(EngineError) as caught:
        find_server()
    os.kill(container.facts()["State"]["Pid"], signal.SIGCONT)
    assert "docker logs --tail 20 ollama" in caught.value.hint


def test_where_nothing_is_found_the_error_says_what_was_asked() -> None:
    usual_is_free()
    with pytest.raises(EngineNotFound) as caught:
        find_server()
    assert "127.0.0.1:11434" in caught.value.message
    assert "no Docker daemon answers" in caught.value.message
    assert "ollama serve" in caught.value.hint


def test_a_process_on_another_port_is_found_without_being_told() -> None:
    usual_is_free()
    with little_ollama() as (port, _):
        assert f"http://127.0.0.1:{port}" in [server.url for server in find_servers()]


def test_every_server_is_listed_once(docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    container = docker.add(facts("run"))
    find_once(url_of(container))
    monkeypatch.setenv("OLLAMA_HOST", url_of(container))
    with little_ollama() as (_, pid):
        found = find_servers()
    assert [server.pid for server in found].count(pid) == 1
    ours = [server for server in found if server.container is not None]
    assert [server.container.id for server in ours if server.container] == [container.id]


def test_a_forwarded_port_of_a_container_that_docker_does_not_know_is_elsewhere(docker: FakeDocker) -> None:
    with little_ollama() as (port, _):
        forward = Forward("127.0.0.1", 0, port)
        try:
            server = find_server(f":{forward.port}")
        finally:
            forward.close()
    assert server.place == "elsewhere"


# --- the server as an engine ---


def test_an_engine_tells_only_settings_that_are_not_the_defaults() -> None:
    with little_ollama() as (port, _):
        plain = engine_of(find_server(f":{port}"), host(), None)
    env = {
        "OLLAMA_KV_CACHE_TYPE": "Q8_0",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "LLAMA_ARG_FIT_TARGET": "512",
        "LLAMA_ARG_CTX_SIZE": "77",
    }
    with little_ollama(env) as (port, _):
        tuned = engine_of(find_server(f":{port}"), host(), None)
    assert (plain.kind, plain.build, plain.variant) == ("ollama", VERSION, "")
    assert plain.key == f"ollama {VERSION} CPU"
    assert plain.limits.one_batch
    assert plain.limits.fixed == {"kv_type": "f16", "flash_attn": "auto", "parallel": 1, "cpu_moe": 0}
    assert plain.limits.why["kv_type"] == "OLLAMA_KV_CACHE_TYPE is not set on the server"
    assert tuned.variant == "kv=q8_0 flash=on slots=2 ctx=8192 fit=512"
    assert tuned.limits.fixed == {"kv_type": "q8_0", "flash_attn": "on", "parallel": 2, "cpu_moe": 0}
    assert tuned.limits.why["kv_type"] == "OLLAMA_KV_CACHE_TYPE is Q8_0 on the server"
    assert plain.limits.variables["kv_type"] == "OLLAMA_KV_CACHE_TYPE"


def test_an_old_ollama_has_the_defaults_of_its_time() -> None:
    env = {"LITTLE_VERSION": "0.3.5", "OLLAMA_KV_CACHE_TYPE": "q8_0", "LLAMA_ARG_FIT_TARGET": "512"}
    with little_ollama(env) as (port, _):
        engine = engine_of(find_server(f":{port}"), host(), None)
    assert engine.limits.fixed == {"kv_type": "f16", "flash_attn": "off", "parallel": 4, "cpu_moe": 0}
    assert engine.limits.why["kv_type"] == "Ollama reads OLLAMA_KV_CACHE_TYPE since 0.5.0"
    assert set(engine.limits.variables) == {"flash_attn", "parallel"}
    assert engine.variant == ""


def test_the_devices_are_those_of_the_log(tmp_path: Path) -> None:
    said = (
        'time=2026-11-22T11:24:37.974Z level=INFO source=types.go:32 msg="inference compute" id=0 '
        'filter_id="" library=CUDA compute=8.9 name=CUDA0 description="NVIDIA GeForce RTX 4070" '
        "libdirs=ollama,cuda_v13 driver=13.0 pci_id=0000:01:00.0 type=discrete "
        'total="11.7 GiB" available="11.2 GiB"'
    )
    with little_ollama({"LITTLE_SAYS": said}, log=tmp_path / "server.log") as (port, _):
        server = find_server(f":{port}")
        engine = engine_of(server, host(card(0)), open_log(server))
    assert [(device.name, device.description) for device in engine.devices] == [
        ("CUDA0", "NVIDIA GeForce RTX 4070")
    ]


def test_a_server_that_says_it_has_no_gpu_has_none(tmp_path: Path) -> None:
    said = (
        'level=INFO msg="inference compute" id=cpu library=cpu name=cpu total="23.5 GiB" available="23.1 GiB"'
    )
    with little_ollama({"LITTLE_SAYS": f"time=x {said}"}, log=tmp_path / "server.log") as (port, _):
        server = find_server(f":{port}")
        assert engine_of(server, host(card(0)), open_log(server)).devices == ()


@pytest.mark.parametrize(
    ("visible", "names"),
    [("", ["A", "B"]), ("1", ["B"]), ("1,0", ["B", "A"]), ("GPU-1a", ["B"]), ("-1", []), ("none", [])],
)
def test_without_a_log_the_devices_are_the_visible_cards(visible: str, names: list[str]) -> None:
    with little_ollama({"CUDA_VISIBLE_DEVICES": visible} if visible else {}) as (port, _):
        engine = engine_of(find_server(f":{port}"), host(card(0, "A"), card(1, "B")), None)
    assert [device.description for device in engine.devices] == names
    assert [device.name for device in engine.devices] == [f"CUDA{number}" for number in range(len(names))]


def test_a_container_has_the_cards_that_it_asked_for(docker: FakeDocker) -> None:
    told = facts("run")
    told["HostConfig"]["DeviceRequests"] = [
        {"Driver": "nvidia", "DeviceIDs": ["1"], "Capabilities": [["gpu"]]}
    ]
    server = find_once(url_of(docker.add(told)))
    engine = engine_of(server, host(card(0, "A"), card(1, "B")), None)
    assert [device.description for device in engine.devices] == ["B"]


def test_a_container_without_cards_computes_on_the_cpu_and_says_so(docker: FakeDocker) -> None:
    told = facts("run")
    told["HostConfig"]["DeviceRequests"] = None
    server = find_once(url_of(docker.add(told)))
    engine = engine_of(server, host(card(0)), None)
    assert engine.devices == ()
    assert any("--gpus=all" in gap for gap in engine.gaps)


def test_a_server_is_looked_at_again_by_its_address() -> None:
    with little_ollama() as (port, pid):
        assert look(parse_host(f"127.0.0.1:{port}"), "flag").pid == pid
    with little_ollama({"LITTLE_VERSION": "0.30.0"}, port=port) as (_, other):
        again = look(parse_host(f"127.0.0.1:{port}"), "flag")
    assert (again.pid, again.version) == (other, "0.30.0")


# --- a fake Ollama that computes with a real llama-server ---


@pytest.mark.engine
def test_a_loaded_models_process_store_and_log_are_found(
    fake_ollama: Callable[..., FakeOllama], gemma: Path
) -> None:
    fake = fake_ollama(models={"small": gemma})
    server = find_server(fake.url)
    assert (server.place, server.pid) == ("process", fake.pid)
    assert server.store == str(fake.store)
    assert server.log == f"file:{fake.log_path}"
    log = open_log(server)
    assert log is not None
    mark = log.mark()
    Api(server.url).preload("small", {"num_ctx": 512}, timeout_s=120)
    blob = fake.blob("small").name
    assert processes.runner_pid(blob, server=server.pid) == fake.runner_pids()[0]
    command = last_load_command(log.since(mark))
    assert command is not None
    assert (command.num_ctx, f"sha256-{command.blob}") == (512, blob)


@pytest.mark.engine
def test_a_loaded_model_in_a_container_is_found_from_the_host(
    engine_binary: Path, gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "volume" / "models"
    add_model(store, "small", gemma)
    words = [sys.executable, "-m", "narthex.testing.fake_ollama", "--engine", str(engine_binary), "--store"]
    told = facts("run")
    told["Mounts"][0]["Source"] = str(tmp_path / "volume")
    with FakeDocker(lambda _: Command([*words, str(store)])) as docker:
        monkeypatch.setenv("DOCKER_HOST", docker.host)
        container = docker.add(told)
        server = find_once(url_of(container))
        assert (server.place, server.store) == ("container", str(store))
        log = open_log(server)
        assert log is not None
        mark = log.mark()
        Api(server.url).preload("small", {"num_ctx": 512}, timeout_s=120)
        runner = next(path.name for path in (store / "blobs").iterdir() if path.stat().st_size > 1 << 20)
        assert processes.runner_pid(runner, server=server.pid) is not None
        command = last_load_command(log.since(mark))
        assert command is not None
        assert command.num_ctx == 512
        assert command.flash_attn == "on"  # the container's OLLAMA_FLASH_ATTENTION=1
