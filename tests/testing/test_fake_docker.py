"""The fake Docker daemon, asked by the real SDK: what it grants really happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from docker import APIClient
from docker.errors import APIError, NotFound

from narthex.testing.docker.container import Command, FakeContainer
from narthex.testing.fake_docker import FakeDocker

CODE = """
import http.server, os, sys
print("to its output", flush=True)
print("to its errors", file=sys.stderr, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {os.environ.get('COLOUR')}".encode())
    def log_message(self, format, *args):
        pass
host, _, port = os.environ["OLLAMA_HOST"].partition(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""
FACTS: dict[str, Any] = {
    "Id": "ab" * 32,
    "Name": "/painter",
    "Image": "sha256:one",
    "Config": {"Image": "paint:1", "Env": ["COLOUR=red"], "Tty": False, "ExposedPorts": {"80/tcp": {}}},
    "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
    "Mounts": [{"Type": "volume", "Name": "pots", "Source": "/pots", "Destination": "/p", "RW": True}],
}


@pytest.fixture
def fake() -> Iterator[FakeDocker]:
    with FakeDocker(lambda facts: Command([sys.executable, "-c", CODE])) as running:
        yield running


@pytest.fixture
def api(fake: FakeDocker) -> Iterator[Any]:
    client = APIClient(base_url=fake.host, version="auto", timeout=20)
    yield client
    client.close()


def ask(container: FakeContainer) -> str:
    """What its program answers on the published port."""
    for _ in range(1000):
        port = container.facts()["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        try:
            return requests.get(f"http://127.0.0.1:{port}", timeout=10).text
        except requests.ConnectionError:
            time.sleep(0.02)
    raise AssertionError("the container's program never answered")


def test_a_published_port_leads_to_the_real_process(fake: FakeDocker, api: Any) -> None:
    container = fake.add(FACTS)
    told = api.inspect_container("painter")
    assert ask(container) == f"{told['State']['Pid']} red"
    assert told["State"]["Running"]


def test_a_restart_is_another_process_with_the_same_environment(fake: FakeDocker, api: Any) -> None:
    container = fake.add(FACTS)
    before = ask(container)
    api.restart("painter", timeout=5)
    after = ask(container)
    assert before != after
    assert after.endswith(" red")


def test_a_container_made_anew_has_its_own_environment(fake: FakeDocker, api: Any) -> None:
    fake.add(FACTS, start=False)
    body = {
        **FACTS["Config"],
        "Env": ["COLOUR=blue"],
        "HostConfig": {**FACTS["HostConfig"], "Binds": ["pots:/p"]},
    }
    new = api.create_container_from_config(body, "other")["Id"]
    api.start(new)
    assert ask(fake.find("other")).endswith(" blue")
    assert api.inspect_container("other")["Mounts"][0]["Source"] == "/pots"
    api.stop("other")
    api.remove_container("other")
    with pytest.raises(NotFound):
        api.inspect_container("other")


def test_a_process_that_ends_is_an_exited_container(fake: FakeDocker, api: Any) -> None:
    fake._make = lambda facts: Command([sys.executable, "-c", "raise SystemExit(3)"])
    container = fake.add(FACTS)
    while container.running:
        time.sleep(0.02)
    state = api.inspect_container("painter")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 3)
    assert api.containers() == []
    assert len(api.containers(all=True)) == 1


def test_both_streams_come_framed_and_can_be_asked_for_apart(fake: FakeDocker, api: Any) -> None:
    ask(fake.add(FACTS))
    assert set(api.logs("painter").splitlines()) == {b"to its output", b"to its errors"}
    assert api.logs("painter", stdout=False) == b"to its errors\n"
    assert len(api.logs("painter", tail=1).splitlines()) == 1
    assert api.logs("painter", since=int(time.time()) + 60) == b""
    assert api.logs("painter", until=1) == b""
    assert api.logs("painter", timestamps=True, tail=1)[:2] == b"20"


def test_names_are_kept_apart(fake: FakeDocker, api: Any) -> None:
    fake.add(FACTS, start=False)
    fake.add(FACTS | {"Id": "cd" * 32, "Name": "/other"}, start=False)
    with pytest.raises(APIError, match="already in use"):
        api.rename("other", "painter")
    api.rename("other", "third")
    assert api.inspect_container("cd" * 6)["Name"] == "/third"


def test_a_port_that_is_taken_keeps_a_container_from_starting(fake: FakeDocker, api: Any) -> None:
    container = fake.add(FACTS)
    port = container.facts()["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    host = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}}
    fake.add(FACTS | {"Id": "cd" * 32, "Name": "/other", "HostConfig": host}, start=False)
    with pytest.raises(APIError, match="external connectivity"):
        api.start("other")


def test_what_happened_is_told_as_events(fake: FakeDocker, api: Any) -> None:
    fake.add(FACTS)
    api.stop("painter")
    assert [event["Action"] for event in api.events(decode=True)] == ["die", "stop"]


def test_volumes_and_the_daemon_are_told(fake: FakeDocker, api: Any) -> None:
    fake.add(FACTS, start=False)
    assert api.volumes()["Volumes"][0]["Mountpoint"] == "/pots"
    assert api.info()["Containers"] == 1
    assert api.ping()


def test_a_refusal_is_given_as_often_as_asked_for(fake: FakeDocker, api: Any) -> None:
    fake.refuse("info", 500, "out of sorts", times=1)
    with pytest.raises(APIError, match="out of sorts"):
        api.info()
    assert api.info()["Containers"] == 0


def test_a_container_that_removes_itself_is_gone_once_it_stops(fake: FakeDocker, api: Any) -> None:
    fake.add(FACTS | {"HostConfig": {**FACTS["HostConfig"], "AutoRemove": True}})
    api.stop("painter")
    with pytest.raises(NotFound):
        api.inspect_container("painter")
