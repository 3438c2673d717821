"""What may start a server anew: its container or its systemd unit. Used only where the user allowed it.

A change of the environment is never written into what the user made: the container is put aside and a twin
takes its place; the unit gets a drop-in below /run. ``restore()`` brings back what was there, also in a later
run, since the twin carries a label and the drop-in a name. A step that fails undoes those before it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from narthex.engines.ollama import discovery, docker, processes, recreate
from narthex.engines.ollama.address import parse_host
from narthex.engines.ollama.records import ApiError, Server
from narthex.errors import EngineError

WAIT_S = 120.0  # for the server to answer again; a big store takes a while to be listed
POLL_S = 0.25
_RESTARTS = 2  # Docker starts it again by itself: more often than this is a loop
_STOP_S = 30  # Ollama ends its runners at once, but a runner may write out its cache
_NEW = "-narthex-new"
_DROP_IN = "zz-narthex.conf"  # drop-ins are read by name: it must come after the user's override.conf
_VARIABLES = "narthex.env"
_COMMAND_S = 120
_NO_HAND = {
    "elsewhere": "It does not run on this machine, so narthex can't restart it.",
    "container": "Its container can't be reached through Docker, so narthex can't restart it.",
}
_BY_HAND = "It was started by hand: narthex restarts only containers and systemd units."


class Hand(Protocol):
    """What may start one server anew.

    The methods return the server as it is afterwards. They raise EngineError where it does not come back;
    then what was there before is there again.
    """

    words: str  # what it will do, for the user

    @property
    def changed(self) -> bool:
        """Whether settings of narthex are in force, also of an earlier run that was killed."""
        ...

    def restart(self) -> Server:
        """Start it anew with the settings it has."""
        ...

    def set_env(self, changes: Mapping[str, str | None]) -> Server:
        """Start it anew with the user's environment and these changes; None takes a variable away. An earlier
        call's changes do not stay."""
        ...

    def restore(self) -> Server:
        """The user's own settings again; nothing happens where they are in force."""
        ...


def hand_for(server: Server) -> Hand | None:
    """The hand for that server; None where narthex must not, or can't, start it anew."""
    return find_hand(server)[0]


def find_hand(server: Server) -> tuple[Hand | None, str]:
    """(the hand, "") or (None, why there is none)."""
    if server.container is not None:
        return _container_hand(server, server.container.name)
    unit = processes.unit_of(server.pid) if server.pid is not None and server.place == "process" else None
    if unit is not None:
        if os.geteuid() == (unit.uid or 0):
            return UnitHand(server, unit), ""
        return None, f"Only root may restart {unit.name}: run narthex with sudo for that."
    return None, _NO_HAND.get(server.place, _BY_HAND)


def _container_hand(server: Server, name: str) -> tuple[Hand | None, str]:
    try:
        found = docker.look(name)
    except docker.NoDocker as error:
        return None, f"Container «{name}» can't be restarted: {error}."
    if found.orchestrated:
        return None, f"{found.orchestrated} keeps this container and would start another in its place."
    return ContainerHand(server, found), ""


class ContainerHand:
    """Restarts a container, or puts a twin with another environment in its place."""

    def __init__(self, server: Server, found: docker.Found) -> None:
        self._server = server
        self._name = found.container.name
        self._store_mounted = found.store_mounted
        self.words = (
            f"container «{self._name}»: for other settings a twin of it runs meanwhile, on the same volumes; "
            f"your own waits as «{self._name}{docker.ASIDE}» and is put back"
        )
        if found.compose:
            self.words += f" (a «docker compose up» of {found.compose} in between would replace the twin)"

    @property
    def changed(self) -> bool:
        """Whether a twin stands in its place."""
        with _told(self._name), docker.connect(_COMMAND_S) as api:
            return _original_id(api.inspect_container(self._name)) is not None

    def restart(self) -> Server:
        """``docker restart``."""
        with _told(self._name), docker.connect(_COMMAND_S) as api:
            api.restart(self._name, timeout=_STOP_S)
        return self._answering()

    def set_env(self, changes: Mapping[str, str | None]) -> Server:
        """A twin with that environment in its place."""
        if not self._store_mounted:
            raise EngineError(
                f"The models of container «{self._name}» lie inside it, so a twin would have none.",
                hint="Give it a volume: docker run -v ollama:/root/.ollama …",
            )
        with _told(self._name), docker.connect(_COMMAND_S) as api, contextlib.ExitStack() as undo:
            now = api.inspect_container(self._name)
            own = api.inspect_container(_original_id(now) or now["Id"])
            if own["HostConfig"].get("AutoRemove"):
                raise EngineError(
                    f"Container «{self._name}» was started with --rm: stopping it would remove it.",
                    hint="Start it without --rm, or let narthex only propose the change.",
                )
            new = self._create(api, own, changes)
            undo.callback(self._put_back, api, own["Id"])
            undo.callback(_remove, api, new)
            if now["Id"] == own["Id"]:
                api.stop(own["Id"], timeout=_STOP_S)
                api.rename(own["Id"], self._name + docker.ASIDE)
            else:
                _remove(api, now["Id"])
            api.rename(new, self._name)
            api.start(new)
            server = self._answering()
            _proven(server, changes)
            undo.pop_all()
            return server

    def restore(self) -> Server:
        """Away with the twin, and the user's own container back."""
        with _told(self._name), docker.connect(_COMMAND_S) as api:
            now = api.inspect_container(self._name)
            original = _original_id(now)
            if original is None:
                return self._answering()
            api.inspect_container(original)  # before anything is taken away: it must be there
            _remove(api, now["Id"])
            self._put_back(api, original)
        return self._answering()

    def _create(self, api: Any, own: Mapping[str, Any], changes: Mapping[str, str | None]) -> str:
        self._remove_half_made(api)
        body = recreate.twin(own, _image(api, own), changes)
        made = api.create_container_from_config(body, self._name + _NEW)
        new = str(made["Id"])
        try:
            for network in recreate.other_networks(own):
                point = recreate.endpoint(own, network)
                api.connect_container_to_network(
                    new,
                    network,
                    aliases=point.get("Aliases"),
                    links=point.get("Links"),
                    ipv4_address=(point.get("IPAMConfig") or {}).get("IPv4Address"),
                )
        except BaseException:
            _remove(api, new)
            raise
        return new

    def _remove_half_made(self, api: Any) -> None:
        """A twin that an earlier run made and was killed before it took its place."""
        from docker.errors import NotFound

        with contextlib.suppress(NotFound):
            left = api.inspect_container(self._name + _NEW)
            if _original_id(left) is not None:
                _remove(api, left["Id"])

    def _put_back(self, api: Any, original: str) -> None:
        """The user's container under its own name, running. Whatever stands there by that name goes first."""
        own = api.inspect_container(original)
        if own["Name"].lstrip("/") != self._name:
            api.rename(original, self._name)
        api.start(original)

    def _answering(self) -> Server:
        """The server, once it answers. Its address may be another one where the port isn't published."""

        def look() -> Server | str:
            found = docker.look(self._name)
            if found.status in ("exited", "dead") or found.restarts > _RESTARTS:
                last = docker.read_logs(self._name, tail=1).decode(errors="replace").strip()
                raise EngineError(
                    f"Container «{self._name}» ended right after its start: {last or 'without a word'}",
                    hint="Its settings may be wrong, or its port may be taken.",
                )
            if found.url is None:
                return "no way leads to its port"
            url = self._server.url if found.published else found.url
            return _look(url, self._server.source)

        return _wait(look, self._name)


class UnitHand:
    """Restarts a systemd unit, with a drop-in for another environment."""

    def __init__(self, server: Server, unit: processes.Unit) -> None:
        self._server = server
        self._unit = unit.name
        self._systemctl = ["systemctl", *(["--user"] if unit.uid is not None else [])]
        self._folder = _runtime_folder(unit) / f"{unit.name}.d"
        self.words = (
            f"{unit.name}: for other settings a drop-in {self._folder / _DROP_IN} is put there meanwhile, "
            "and taken away again"
        )

    @property
    def changed(self) -> bool:
        """Whether the drop-in is there."""
        return (self._folder / _DROP_IN).exists()

    def restart(self) -> Server:
        """``systemctl restart``."""
        self._run("restart", self._unit)
        return self._answering()

    def set_env(self, changes: Mapping[str, str | None]) -> Server:
        """A drop-in with the changes, and a restart."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.restore)
            self._write(changes)
            self._run("daemon-reload")
            self._run("restart", self._unit)
            server = self._answering()
            _proven(server, changes)
            undo.pop_all()
            return server

    def restore(self) -> Server:
        """Away with the drop-in, and a restart."""
        if self.changed:
            (self._folder / _DROP_IN).unlink()
            (self._folder / _VARIABLES).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others' drop-ins may lie beside it
                self._folder.rmdir()
            self._run("daemon-reload")
            self._run("restart", self._unit)
        return self._answering()

    def _write(self, changes: Mapping[str, str | None]) -> None:
        """The drop-in. Variables go into a file of their own, since those of another EnvironmentFile= would
        win over Environment= lines; the last file read wins over all."""
        given = {name: value for name, value in changes.items() if value is not None}
        gone = [name for name, value in changes.items() if value is None]
        variables = self._folder / _VARIABLES
        lines = ["# Written by narthex for a study; it is taken away afterwards.", "[Service]"]
        lines += [f"EnvironmentFile={variables}"] if given else []
        lines += [f"UnsetEnvironment={name}" for name in gone]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            variables.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in given.items()))
            (self._folder / _DROP_IN).write_text("\n".join(lines) + "\n")
        except OSError as error:
            raise EngineError(
                f"The drop-in for {self._unit} can't be written: {error}.", hint="Run narthex with sudo."
            ) from error

    def _run(self, *words: str) -> None:
        try:
            run = subprocess.run(
                [*self._systemctl, *words], capture_output=True, timeout=_COMMAND_S, check=False, text=True
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"systemctl {' '.join(words)}: {error}.", hint="Is systemd here?") from error
        if run.returncode:
            raise EngineError(
                f"systemctl {' '.join(words)} failed: {run.stderr.strip() or run.returncode}.",
                hint=f"See: journalctl --unit {self._unit}",
            )

    def _answering(self) -> Server:
        return _wait(lambda: _look(self._server.url, self._server.source), self._unit)


def _look(url: str, source: str) -> Server | str:
    try:
        return discovery.look(parse_host(url), source)
    except ApiError as error:
        return error.text


def _wait(look: Callable[[], Server | str], name: str) -> Server:
    """Until the server answers. Raises EngineError after a while, with the last thing that was seen."""
    until = time.monotonic() + WAIT_S
    while isinstance(seen := look(), str):
        if time.monotonic() > until:
            raise EngineError(
                f"«{name}» was started anew and does not answer: {seen}.", hint="Look at its log."
            )
        time.sleep(POLL_S)
    return seen


def _proven(server: Server, changes: Mapping[str, str | None]) -> None:
    """The new process must have the environment that was asked for, where that can be read."""
    env = processes.environment(server.pid) if server.pid is not None else {}
    for name, value in changes.items() if env else ():
        if env.get(name) != value:
            raise EngineError(
                f"{name} did not become {value or 'unset'}: the server has {env.get(name, 'none')}.",
                hint="Something else sets it, such as a wrapper script; change it there.",
            )


def _original_id(facts: Mapping[str, Any]) -> str | None:
    found = (facts["Config"].get("Labels") or {}).get(docker.ASIDE_LABEL)
    return str(found) if found else None


def _image(api: Any, own: Mapping[str, Any]) -> str:
    """The tag it was made from, if that still means the same image; else the image's id."""
    from docker.errors import APIError

    tag = str(own["Config"]["Image"])
    with contextlib.suppress(APIError):
        if api.inspect_image(tag)["Id"] == own["Image"]:
            return tag
    return str(own["Image"])


def _remove(api: Any, container: str) -> None:
    """Stop and remove one of narthex's own containers; its volumes stay, they are the user's."""
    from docker.errors import NotFound

    with contextlib.suppress(NotFound):
        api.stop(container, timeout=_STOP_S)
        api.remove_container(container, v=False, force=True)


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Docker's refusals as an error with a way out."""
    try:
        yield
    except docker.NoDocker as error:
        raise EngineError(
            f"Container «{name}» can't be changed: {error}.",
            hint=f"See what is there with: docker ps -a --filter name={name}",
        ) from error


def _runtime_folder(unit: processes.Unit) -> Path:
    if unit.uid is None:
        return Path("/run/systemd/system")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{unit.uid}") / "systemd" / "user"


def _quoted(value: str) -> str:
    """A value for an environment file of systemd."""
    escaped = "".join(f"\\{letter}" if letter in '\\"$`' else letter for letter in value)
    return f'"{escaped}"'
