"""A fake Docker daemon: a real HTTP server on a Unix socket that the real Docker SDK talks to.

It knows what narthex asks of Docker and no more, and answers in the shapes of the Engine API (version 1.47).
Its containers are bound to real processes, so that a restart really restarts, and a container that is made
anew really runs with its new environment; their published ports are real ports of this machine. It is a test
tool: images, networks and volumes are names only.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import socketserver
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from narthex.testing.docker.container import FakeContainer, Program, Row
from narthex.testing.docker.shapes import listed, mount_of, selected, text_of

_API = "1.47"
_VERSION = {"Version": "27.5.1", "ApiVersion": _API, "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"}

Answer = tuple[int, Any]
"""Status, and what is sent: bytes as they are, a tuple or an iterator of them piece by piece, None for
nothing, all else as JSON."""


class Refused(Exception):
    """A request that the daemon does not grant."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeDocker:
    """A daemon, as a context manager. Point the SDK at it with ``DOCKER_HOST=fake.host``.

    ``make`` gives the program of a container, also of one that is created through the API.
    """

    def __init__(self, make: Callable[[Mapping[str, Any]], Program | None] | None = None) -> None:
        self._make = make or (lambda facts: None)
        self._folder = Path(tempfile.mkdtemp(prefix="docker-"))  # a socket's path is short
        self.host = f"unix://{self._folder / 'docker.sock'}"
        self.containers: dict[str, FakeContainer] = {}
        self.images: dict[str, str] = {}  # name → id
        self.volumes: dict[str, str] = {}  # name → folder of this machine
        self.events: list[dict[str, Any]] = []
        self.info: dict[str, Any] = {}  # what «docker info» tells besides
        self._refusals: dict[str, list[tuple[int, str]]] = {}
        self._server = _Server(str(self._folder / "docker.sock"), _Handler)
        self._server.daemon = self

    def __enter__(self) -> FakeDocker:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        for container in self.containers.values():
            container.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, facts: Mapping[str, Any], *, start: bool = True) -> FakeContainer:
        """A container as inspect tells of it; started unless told otherwise."""
        container = FakeContainer(facts, self._make(facts))
        self.containers[container.id] = container
        self.images.setdefault(str(facts["Config"]["Image"]), str(facts["Image"]))
        for mount in facts.get("Mounts") or ():
            if mount.get("Type") == "volume":
                self.volumes.setdefault(mount["Name"], mount["Source"])
        if start:
            container.start()
        return container

    def refuse(self, action: str, status: int, message: str, *, times: int = 1000) -> None:
        """Do not grant the next requests of one kind: «list», «logs», «start», «create», «rename», …"""
        self._refusals[action] = [(status, message)] * times

    def find(self, name: str) -> FakeContainer:
        """By name, id, or the beginning of an id. Raises Refused."""
        for container in self.containers.values():
            if name in (container.name, container.id) or (len(name) >= 12 and container.id.startswith(name)):
                return container
        raise Refused(404, f"No such container: {name}")

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        """What the daemon says to one request."""
        for verb, pattern, action in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == verb:
                name = action.__name__.removeprefix("_")
                if waiting := self._refusals.get(name):
                    raise Refused(*waiting.pop())
                return action(self, *(unquote(part) for part in found.groups()), query, body)
        raise Refused(404, f"page not found: {method} {path}")

    def _ping(self, query: dict[str, str], body: Any) -> Answer:
        return 200, b"OK"

    def _version(self, query: dict[str, str], body: Any) -> Answer:
        return 200, _VERSION

    def _info(self, query: dict[str, str], body: Any) -> Answer:
        told = {"Containers": len(self.containers), "ServerVersion": _VERSION["Version"], "Runtimes": {}}
        return 200, told | self.info

    def _list(self, query: dict[str, str], body: Any) -> Answer:
        every = query.get("all") in ("1", "true", "True")
        return 200, [listed(item.facts()) for item in self.containers.values() if every or item.running]

    def _inspect(self, name: str, query: dict[str, str], body: Any) -> Answer:
        return 200, self.find(name).facts()

    def _logs(self, name: str, query: dict[str, str], body: Any) -> Answer:
        container = self.find(name)
        if query.get("follow") == "1":
            return 200, self._following(container, query)
        return 200, b"".join(_frame(container, row, query) for row in selected(container.rows, query))

    def _following(self, container: FakeContainer, query: dict[str, str]) -> Iterator[bytes]:
        """The lines as they come, until the container ends."""
        given = len(container.rows)
        yield from (_frame(container, row, query) for row in selected(container.rows[:given], query))
        while True:
            lives = container.running
            rows = container.rows[given:]
            given += len(rows)
            yield from (_frame(container, row, query) for row in rows)
            if not lives:
                return
            time.sleep(0.02)

    def _start(self, name: str, query: dict[str, str], body: Any) -> Answer:
        container = self.find(name)
        if container.running:
            return 304, None
        try:
            container.start()
        except OSError as error:
            raise Refused(500, f"driver failed programming external connectivity: {error}") from error
        self._tell("start", container)
        return 204, None

    def _stop(self, name: str, query: dict[str, str], body: Any) -> Answer:
        container = self.find(name)
        if not container.running:
            return 304, None
        container.stop()
        self._tell("die", container)
        self._tell("stop", container)
        if container.facts()["HostConfig"].get("AutoRemove"):
            del self.containers[container.id]
        return 204, None

    def _restart(self, name: str, query: dict[str, str], body: Any) -> Answer:
        container = self.find(name)
        container.stop()
        container.start()
        self._tell("restart", container)
        return 204, None

    def _update(self, name: str, query: dict[str, str], body: Any) -> Answer:
        self.find(name).facts()["HostConfig"].update(body)
        return 200, {"Warnings": None}

    def _rename(self, name: str, query: dict[str, str], body: Any) -> Answer:
        container = self.find(name)
        self._free_name(query["name"])
        container.name = query["name"]
        self._tell("rename", container)
        return 204, None

    def _create(self, query: dict[str, str], body: Any) -> Answer:
        self._free_name(query.get("name", ""))
        host, wanted = dict(body.get("HostConfig") or {}), dict(body)
        wanted.pop("HostConfig", None)
        endpoints = dict((wanted.pop("NetworkingConfig", None) or {}).get("EndpointsConfig") or {})
        if wanted["Image"] not in (*self.images, *self.images.values()):
            raise Refused(404, f"No such image: {wanted['Image']}")
        name = query.get("name") or f"nameless_{secrets.token_hex(4)}"
        new = secrets.token_hex(32)
        facts = {
            "Id": new,
            "Name": f"/{name}",
            "Image": self.images.get(wanted["Image"], wanted["Image"]),
            "Config": {"Hostname": new[:12], "Tty": False, **wanted},
            "HostConfig": host,
            "Mounts": [mount_of(bind, self.volumes) for bind in host.get("Binds") or ()],
            "NetworkSettings": {
                "Ports": {},
                "Networks": {key: value or {} for key, value in endpoints.items()},
            },
        }
        container = self.add(facts, start=False)
        self._tell("create", container)
        return 201, {"Id": container.id, "Warnings": []}

    def _delete(self, name: str, query: dict[str, str], body: Any) -> Answer:
        container = self.find(name)
        if container.running and query.get("force") not in ("1", "true", "True"):
            raise Refused(409, f"cannot remove container «{name}»: container is running")
        container.stop()
        del self.containers[container.id]
        self._tell("destroy", container)
        return 204, None

    def _image(self, name: str, query: dict[str, str], body: Any) -> Answer:
        found = self.images.get(name) or (name if name in self.images.values() else None)
        if found is None:
            raise Refused(404, f"No such image: {name}")
        return 200, {"Id": found, "RepoTags": [tag for tag, image in self.images.items() if image == found]}

    def _connect(self, network: str, query: dict[str, str], body: Any) -> Answer:
        facts = self.find(body["Container"]).facts()
        facts["NetworkSettings"]["Networks"][network] = dict(body.get("EndpointConfig") or {})
        return 200, None

    def _volumes(self, query: dict[str, str], body: Any) -> Answer:
        rows = [{"Name": name, "Mountpoint": folder} for name, folder in self.volumes.items()]
        return 200, {"Volumes": rows, "Warnings": None}

    def _events(self, query: dict[str, str], body: Any) -> Answer:
        return 200, tuple(json.dumps(event).encode() + b"\n" for event in self.events)

    def _tell(self, action: str, container: FakeContainer) -> None:
        actor = {"ID": container.id, "Attributes": {"name": container.name}}
        self.events.append({"Type": "container", "Action": action, "Actor": actor})

    def _free_name(self, name: str) -> None:
        for container in self.containers.values():
            if container.name == name:
                raise Refused(409, f'Conflict. The container name "/{name}" is already in use')


_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", "/_ping", FakeDocker._ping),
    ("GET", "/version", FakeDocker._version),
    ("GET", "/info", FakeDocker._info),
    ("GET", "/events", FakeDocker._events),
    ("GET", "/volumes", FakeDocker._volumes),
    ("GET", "/containers/json", FakeDocker._list),
    ("POST", "/containers/create", FakeDocker._create),
    ("GET", "/containers/([^/]+)/json", FakeDocker._inspect),
    ("GET", "/containers/([^/]+)/logs", FakeDocker._logs),
    ("POST", "/containers/([^/]+)/start", FakeDocker._start),
    ("POST", "/containers/([^/]+)/stop", FakeDocker._stop),
    ("POST", "/containers/([^/]+)/restart", FakeDocker._restart),
    ("POST", "/containers/([^/]+)/rename", FakeDocker._rename),
    ("POST", "/containers/([^/]+)/update", FakeDocker._update),
    ("DELETE", "/containers/([^/]+)", FakeDocker._delete),
    ("GET", "/images/(.+)/json", FakeDocker._image),
    ("POST", "/networks/([^/]+)/connect", FakeDocker._connect),
)


def _frame(container: FakeContainer, row: Row, query: Mapping[str, str]) -> bytes:
    """A line as it is sent: with its stream's number and length before it, but for a container with a tty."""
    text = text_of(row, query.get("timestamps") == "1")
    tty = container.facts()["Config"].get("Tty")
    return text if tty else struct.pack(">BxxxL", row.stream, len(text)) + text


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    daemon: FakeDocker


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path = re.sub(r"^/v\d+\.\d+(?=/)", "", parts.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(content) if content.strip() else None
        try:
            status, answer = self.server.daemon.answer(self.command, path, dict(parse_qsl(parts.query)), body)
        except Refused as error:
            status, answer = error.status, {"message": str(error)}
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Api-Version", _API)
            if isinstance(answer, tuple | Iterator):
                self._send_pieces(answer)
            else:
                self._send_whole(status, answer)

    def _send_whole(self, status: int, answer: Any) -> None:
        raw = b"" if answer is None else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_header("Content-Type", "application/json")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Chunked, as the daemon sends what has no end; here it may have one."""
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_DELETE = do_HEAD = _serve

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read their own output."""
