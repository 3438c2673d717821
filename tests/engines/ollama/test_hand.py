"""Starting a server anew: containers of a fake daemon and a unit, both with real processes behind them."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.engines.ollama import notes, processes
from narthex.engines.ollama.address import parse_host
from narthex.engines.ollama.container_hand import ContainerHand
from narthex.engines.ollama.discovery import look
from narthex.engines.ollama.docker import ASIDE_LABEL
from narthex.engines.ollama.drop_in import drop_in
from narthex.engines.ollama.hand import Hand, find_hand, hand_for
from narthex.engines.ollama.records import Server
from narthex.engines.ollama.unit_hand import UnitHand
from narthex.errors import EngineError
from narthex.host.processes import environment
from narthex.testing.fake_docker import FakeDocker

from .little import SCRIPT, VERSION, answers, daemon, facts, free_port, little_ollama, url_of

CHANGES = {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_KEEP_ALIVE": None}


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with daemon() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        yield fake


def running(docker: FakeDocker, told: dict[str, Any] | None = None) -> Server:
    container = docker.add(told or facts("run"))
    url = url_of(container)
    answers(url)
    return look(parse_host(url), "flag")


def handy(server: Server) -> Hand:
    hand = hand_for(server)
    assert hand is not None
    return hand


def tunable(server: Server) -> dict[str, str]:
    """Its settings without the address, which in a fake container is another one after each start."""
    return {name: value for name, value in server.env.items() if name != "OLLAMA_HOST"}


def names(docker: FakeDocker) -> dict[str, bool]:
    return {container.name: container.running for container in docker.containers.values()}


def test_a_container_is_restarted_as_it_is(docker: FakeDocker) -> None:
    before = running(docker)
    after = handy(before).restart()
    assert after.pid != before.pid
    assert after.container == before.container
    assert tunable(after) == tunable(before)
    assert names(docker) == {"ollama": True}


def test_a_twin_runs_with_other_settings_and_the_own_container_comes_back(docker: FakeDocker) -> None:
    before = running(docker)
    hand = handy(before)
    assert not hand.changed
    changed = hand.set_env(CHANGES)
    assert changed.url == before.url
    assert changed.env["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert changed.pid is not None
    assert "OLLAMA_KEEP_ALIVE" not in environment(changed.pid)
    assert names(docker) == {"ollama-before-narthex": False, "ollama": True}
    assert hand.changed
    again = hand.restore()
    assert names(docker) == {"ollama": True}
    assert again.container == before.container
    assert tunable(again) == tunable(before)
    assert not hand.changed


def test_the_twin_has_the_same_image_volumes_ports_and_cards(docker: FakeDocker) -> None:
    before = running(docker)
    assert before.container is not None
    own = copy.deepcopy(docker.find(before.container.id).facts())
    server = handy(before).set_env(CHANGES)
    assert server.container is not None
    twin = docker.find(server.container.id).facts()
    assert twin["Config"]["Image"] == "ollama/ollama:latest"
    assert twin["Mounts"][0]["Source"] == own["Mounts"][0]["Source"]
    assert twin["HostConfig"]["DeviceRequests"] == own["HostConfig"]["DeviceRequests"]
    assert twin["HostConfig"]["RestartPolicy"] == own["HostConfig"]["RestartPolicy"]
    assert twin["Config"]["Labels"][ASIDE_LABEL] == own["Id"]


def test_an_image_that_was_pulled_anew_meanwhile_is_not_taken(docker: FakeDocker) -> None:
    before = running(docker)
    own = docker.find("ollama").facts()["Image"]
    docker.images |= {"ollama/ollama:latest": "sha256:new", own: own}
    server = handy(before).set_env(CHANGES)
    assert server.container is not None
    assert docker.find(server.container.id).facts()["Config"]["Image"] == own


def test_changes_are_against_the_users_own_settings(docker: FakeDocker) -> None:
    before = running(docker)
    hand = handy(before)
    hand.set_env({"OLLAMA_KV_CACHE_TYPE": "q8_0"})
    changed = hand.set_env({"OLLAMA_NUM_PARALLEL": "2"})
    assert changed.pid is not None
    env = environment(changed.pid)
    assert "OLLAMA_KV_CACHE_TYPE" not in env
    assert env["OLLAMA_NUM_PARALLEL"] == "2"
    assert names(docker) == {"ollama-before-narthex": False, "ollama": True}
    assert hand.restore().container == before.container
    assert names(docker) == {"ollama": True}


def test_after_a_kill_a_later_run_brings_the_own_container_back(docker: FakeDocker) -> None:
    before = running(docker)
    changed = handy(before).set_env(CHANGES)
    later = handy(look(parse_host(changed.url), "flag"))
    assert later.changed
    assert later.restore().container == before.container


def test_a_twin_that_a_killed_run_only_made_is_in_nobodys_way(docker: FakeDocker) -> None:
    before = running(docker)
    assert before.container is not None
    half = facts("run")
    half |= {"Id": "ee" * 32, "Name": "/ollama-narthex-new"}
    half["Config"]["Labels"][ASIDE_LABEL] = before.container.id
    docker.add(half, start=False)
    hand = handy(before)
    hand.set_env(CHANGES)
    assert hand.restore().container == before.container
    assert names(docker) == {"ollama": True}


def test_a_strangers_container_of_the_twins_name_is_not_removed(docker: FakeDocker) -> None:
    before = running(docker)
    docker.add(facts("run") | {"Id": "ee" * 32, "Name": "/ollama-narthex-new"}, start=False)
    with pytest.raises(EngineError, match="already in use"):
        handy(before).set_env(CHANGES)
    assert names(docker) == {"ollama": True, "ollama-narthex-new": False}


def test_a_twin_is_told_as_such(docker: FakeDocker) -> None:
    server = handy(running(docker)).set_env(CHANGES)
    assert any("«ollama-before-narthex»" in gap for gap in server.gaps)


def test_no_way_out_of_a_twin_is_told_while_a_narthex_works_with_it(docker: FakeDocker) -> None:
    before = running(docker)
    handy(before).set_env(CHANGES)
    hold = (
        "import sys\n"
        "from narthex.engines.ollama import notes\n"
        "from narthex.engines.ollama.discovery import find_server\n"
        "with notes.only_one(find_server(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, before.url], **pipes) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        gaps = " ".join(look(parse_host(before.url), "flag").gaps)
        assert f"process {other.pid}, tries other settings" in gaps
        assert "docker rm" not in gaps
        other.stdin.close()
    assert "docker rm -f" in " ".join(look(parse_host(before.url), "flag").gaps)
    with notes.only_one(look(parse_host(before.url), "flag")):
        assert "settings" not in " ".join(look(parse_host(before.url), "flag").gaps)


def test_the_container_put_aside_does_not_start_by_itself_and_gets_its_policy_back(
    docker: FakeDocker,
) -> None:
    told = facts("run")
    told["HostConfig"]["RestartPolicy"] = {"Name": "always", "MaximumRetryCount": 0}
    server = running(docker, told)
    hand = handy(server)
    for changes in (CHANGES, {"OLLAMA_KV_CACHE_TYPE": "q4_0"}):
        hand.set_env(changes)
        assert policies(docker) == {"ollama-before-narthex": "no", "ollama": "always"}
    hand.restore()
    assert policies(docker) == {"ollama": "always"}
    with pytest.raises(EngineError):
        hand.set_env({"OLLAMA_KV_CACHE_TYPE": "nonsense"})
    assert policies(docker) == {"ollama": "always"}


def policies(docker: FakeDocker) -> dict[str, str]:
    return {
        container.name: container.facts()["HostConfig"]["RestartPolicy"]["Name"]
        for container in docker.containers.values()
    }


def test_to_restore_what_was_not_changed_does_nothing(docker: FakeDocker) -> None:
    before = running(docker)
    assert handy(before).restore().pid == before.pid


def test_a_setting_that_ends_the_server_is_undone(docker: FakeDocker) -> None:
    before = running(docker)
    with pytest.raises(EngineError, match="this cache type is nonsense"):
        handy(before).set_env({"OLLAMA_KV_CACHE_TYPE": "nonsense"})
    assert names(docker) == {"ollama": True}
    answers(before.url)
    after = look(parse_host(before.url), "flag")
    assert after.container == before.container


def test_a_second_setting_that_ends_the_server_brings_the_own_container_back(docker: FakeDocker) -> None:
    before = running(docker)
    hand = handy(before)
    hand.set_env(CHANGES)
    with pytest.raises(EngineError, match="nonsense"):
        hand.set_env({"OLLAMA_KV_CACHE_TYPE": "nonsense"})
    assert names(docker) == {"ollama": True}
    answers(before.url)
    assert look(parse_host(before.url), "flag").container == before.container


@pytest.mark.parametrize("step", ["create", "stop", "rename", "start"])
def test_a_step_that_docker_refuses_is_undone(docker: FakeDocker, step: str) -> None:
    before = running(docker)
    docker.refuse(step, 500, "the daemon is out of sorts", times=1)
    with pytest.raises(EngineError, match="out of sorts"):
        handy(before).set_env(CHANGES)
    assert names(docker) == {"ollama": True}
    answers(before.url)
    assert look(parse_host(before.url), "flag").container == before.container


def test_a_network_that_refuses_leaves_nothing_behind(docker: FakeDocker) -> None:
    before = running(docker, facts("compose"))
    docker.refuse("connect", 500, "address in use", times=1)
    with pytest.raises(EngineError, match="address in use"):
        handy(before).set_env(CHANGES)
    assert names(docker) == {"stack-llm-1": True}
    assert look(parse_host(before.url), "flag").pid == before.pid


def test_ctrl_c_while_the_twin_starts_brings_the_own_container_back(docker: FakeDocker) -> None:
    before = running(docker)
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        handy(before).set_env({"OLLAMA_KV_CACHE_TYPE": "hangs"})
    assert names(docker) == {"ollama": True}
    answers(before.url)
    assert look(parse_host(before.url), "flag").container == before.container


def test_a_compose_service_keeps_its_networks_and_says_what_compose_may_do(docker: FakeDocker) -> None:
    before = running(docker, facts("compose"))
    hand = handy(before)
    assert "stack/llm" in hand.words
    server = hand.set_env(CHANGES)
    assert server.container is not None
    twin = docker.find(server.container.id).facts()
    assert set(twin["NetworkSettings"]["Networks"]) == {"stack_default", "monitoring"}
    assert twin["Config"]["Labels"]["com.docker.compose.service"] == "llm"


def test_a_container_that_ends_with_its_process_is_not_touched(docker: FakeDocker) -> None:
    told = facts("run")
    told["HostConfig"]["AutoRemove"] = True
    before = running(docker, told)
    with pytest.raises(EngineError, match="--rm"):
        handy(before).set_env(CHANGES)
    assert look(parse_host(before.url), "flag").pid == before.pid


def test_models_inside_a_container_are_not_lost(docker: FakeDocker) -> None:
    before = running(docker, facts("run") | {"Mounts": []})
    with pytest.raises(EngineError) as caught:
        handy(before).set_env(CHANGES)
    assert "-v ollama:/root/.ollama" in caught.value.hint
    assert look(parse_host(before.url), "flag").pid == before.pid


def test_an_own_container_that_is_gone_leaves_the_twin(docker: FakeDocker) -> None:
    before = running(docker)
    hand = handy(before)
    hand.set_env(CHANGES)
    del docker.containers[docker.find("ollama-before-narthex").id]
    with pytest.raises(EngineError, match="No such container"):
        hand.restore()
    assert names(docker) == {"ollama": True}


def test_what_swarm_keeps_is_not_restarted(docker: FakeDocker) -> None:
    told = facts("run")
    told["Config"]["Labels"]["com.docker.swarm.service.id"] = "x"
    hand, why = find_hand(running(docker, told))
    assert hand is None
    assert "Docker Swarm" in why


def test_a_container_that_docker_no_longer_tells_of_has_no_hand(docker: FakeDocker) -> None:
    before = running(docker)
    docker.refuse("inspect", 500, "out of sorts")
    hand, why = find_hand(before)
    assert hand is None
    assert "out of sorts" in why


def test_a_server_started_by_hand_is_left_alone() -> None:
    with little_ollama() as (port, _):
        hand, why = find_hand(look(parse_host(f":{port}"), "flag"))
    assert hand is None
    assert "started by hand" in why


def test_a_server_elsewhere_is_left_alone() -> None:
    with little_ollama({"LITTLE_NAME": "ssh"}) as (port, _):
        assert hand_for(look(parse_host(f":{port}"), "flag")) is None


# --- a systemd unit: a program named systemctl that starts the process as systemd would ---

SYSTEMCTL = """#!{python}
import json, os, pathlib, shlex, signal, subprocess, sys, time
folder = pathlib.Path({folder!r})
with open(folder / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if (folder / "refuse").exists():
    sys.exit("Failed to do so: Access denied")
if "restart" in sys.argv:
    pid = int((folder / "pid").read_text())
    if pid:
        os.kill(pid, signal.SIGTERM)
        while os.path.exists(f"/proc/{{pid}}/exe"):
            time.sleep(0.01)
    env = json.loads((folder / "env").read_text())
    drop_in = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]) / "systemd/user/ollama.service.d/zz-narthex.conf"
    for line in drop_in.read_text().splitlines() if drop_in.exists() else ():
        key, _, value = line.partition("=")
        if key == "EnvironmentFile":
            rows = shlex.split(pathlib.Path(value).read_text())
            env |= {{row.partition("=")[0]: row.partition("=")[2] for row in rows}}
        if key == "UnsetEnvironment":
            env.pop(value, None)
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, {script!r}, "serve"], env=env, start_new_session=True,
                               stdin=quiet, stdout=quiet, stderr=quiet)
    (folder / "pid").write_text(str(process.pid))
"""


class Unit:
    """ollama.service of this user, its process and what systemctl was told."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.drop_ins = runtime / "systemd" / "user" / "ollama.service.d"
        self.url = f"http://127.0.0.1:{free_port()}"
        program = folder / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(SYSTEMCTL.format(python=sys.executable, folder=str(folder), script=str(SCRIPT)))
        program.chmod(0o755)
        env = {
            "LITTLE_VERSION": VERSION,
            "OLLAMA_HOST": self.url.removeprefix("http://"),
            "OLLAMA_KEEP_ALIVE": "9m",
        }
        (folder / "env").write_text(json.dumps(env))
        (folder / "pid").write_text("0")

    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def hand(self) -> UnitHand:
        server = Server(url=self.url, version=VERSION, era="F", source="flag", place="process")
        return UnitHand(server, processes.Unit("ollama.service", os.geteuid()))


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    runtime = tmp_path / "run"
    runtime.mkdir()
    made = Unit(tmp_path, runtime)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    made.hand().restart()
    yield made
    if made.pid():
        os.kill(made.pid(), signal.SIGKILL)


def test_a_unit_is_restarted_with_changes_and_without(unit: Unit) -> None:
    before = unit.pid()
    hand = unit.hand()
    assert not hand.changed
    server = hand.set_env({**CHANGES, "OLLAMA_MODELS": 'a "folder" \\ with blanks'})
    assert server.pid == unit.pid() != before
    env = environment(unit.pid())
    assert env["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert env["OLLAMA_MODELS"] == 'a "folder" \\ with blanks'
    assert "OLLAMA_KEEP_ALIVE" not in env
    assert unit.calls()[-2:] == ["--user daemon-reload", "--user restart ollama.service"]
    assert unit.hand().changed  # a later run sees it, too
    unit.hand().restore()
    env = environment(unit.pid())
    assert env["OLLAMA_KEEP_ALIVE"] == "9m"
    assert "OLLAMA_KV_CACHE_TYPE" not in env
    assert not unit.drop_ins.exists()


def test_a_drop_in_is_gone_after_a_reboot() -> None:
    assert str(drop_in(processes.Unit("ollama.service"))).startswith("/run/systemd/system/ollama.service.d/")


def test_a_drop_in_of_the_user_stays(unit: Unit) -> None:
    unit.drop_ins.mkdir(parents=True)
    (unit.drop_ins / "override.conf").write_text("[Service]\n")
    hand = unit.hand()
    hand.set_env(CHANGES)
    assert sorted(path.name for path in unit.drop_ins.glob("*.conf"))[-1] == "zz-narthex.conf"
    hand.restore()
    assert [path.name for path in unit.drop_ins.iterdir()] == ["override.conf"]


def test_a_unit_that_nothing_was_changed_of_is_not_restarted(unit: Unit) -> None:
    before = unit.pid()
    unit.hand().restore()
    assert unit.pid() == before


def test_a_setting_that_does_not_take_is_undone(unit: Unit) -> None:
    address = unit.url.removeprefix("http://")
    (unit.folder / "env").write_text(json.dumps({"LITTLE_VERSION": VERSION, "OLLAMA_HOST": address}))
    script = unit.folder / "bin" / "systemctl"
    script.write_text(script.read_text().replace("env |= {row", "env = env or {row"))
    with pytest.raises(EngineError, match="did not become q8_0"):
        unit.hand().set_env({"OLLAMA_KV_CACHE_TYPE": "q8_0"})
    assert not unit.hand().changed
    assert look(parse_host(unit.url), "flag").pid == unit.pid()


def test_systemd_that_refuses_is_told_in_its_words(unit: Unit) -> None:
    (unit.folder / "refuse").touch()
    with pytest.raises(EngineError, match="Access denied"):
        unit.hand().restart()


def test_a_hand_says_what_it_starts_anew(unit: Unit, docker: FakeDocker) -> None:
    assert unit.hand().words == "ollama.service"
    hand = handy(running(docker))
    assert isinstance(hand, ContainerHand)
    assert hand.words == "container «ollama»"
