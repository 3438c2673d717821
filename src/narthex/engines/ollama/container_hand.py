"""Starts a container anew, or puts a twin with another environment in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from narthex.engines.ollama import docker, recreate
from narthex.engines.ollama.answering import ask_again, prove, wait_for
from narthex.engines.ollama.records import Server
from narthex.errors import EngineError

_RESTARTS = 2  # Docker starts it again by itself: more often than this is a loop
_STOP_S = 30  # Ollama ends its runners at once, but a runner may write out its cache
_NEW = "-narthex-new"
_COMMAND_S = 120


class ContainerHand:
    """Restarts a container, or puts a twin with another environment in its place."""

    def __init__(self, server: Server, found: docker.Found) -> None:
        self._server = server
        self._name = found.container.name
        self._store_mounted = found.store_mounted
        self.words = f"container «{self._name}»"
        if found.compose:
            self.words += f" of Compose's {found.compose} (a «docker compose up» meanwhile would replace it)"

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
            policy = _restart_policy(now)
            new = self._create(api, own, changes, policy)
            undo.callback(self._put_back, api, own["Id"], policy)
            undo.callback(_remove, api, new)
            if now["Id"] == own["Id"]:
                api.stop(own["Id"], timeout=_STOP_S)
                api.rename(own["Id"], self._name + docker.ASIDE)
            else:
                _remove(api, now["Id"])
            api.rename(new, self._name)
            _let_rest(api, own["Id"])
            api.start(new)
            server = self._answering()
            prove(server, changes)
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
            self._put_back(api, original, _restart_policy(now))
        return self._answering()

    def _create(
        self, api: Any, own: Mapping[str, Any], changes: Mapping[str, str | None], policy: dict[str, Any]
    ) -> str:
        self._remove_half_made(api)
        body = recreate.twin(own, _image(api, own), changes)
        body["HostConfig"]["RestartPolicy"] = policy  # a later run reads it there, see restore()
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

    def _put_back(self, api: Any, original: str, policy: dict[str, Any]) -> None:
        """The user's container under its own name, running, with its restart policy. The twin must be gone by
        then."""
        own = api.inspect_container(original)
        if own["Name"].lstrip("/") != self._name:
            api.rename(original, self._name)
        api.start(original)
        if _restart_policy(own) != policy:
            api.update_container(original, restart_policy=policy)

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
            return ask_again(url, self._server.source)

        return wait_for(look, self._name)


def _original_id(facts: Mapping[str, Any]) -> str | None:
    found = (facts["Config"].get("Labels") or {}).get(docker.ASIDE_LABEL)
    return str(found) if found else None


def _restart_policy(facts: Mapping[str, Any]) -> dict[str, Any]:
    """As the user chose it: of the twin where one stands, since the container put aside has none."""
    return dict(facts["HostConfig"].get("RestartPolicy") or {"Name": "no"})


def _let_rest(api: Any, original: str) -> None:
    """With «always», Docker would start the container put aside beside the twin when it is started anew."""
    from docker.errors import APIError

    with contextlib.suppress(APIError):  # a Docker that can't change it goes on without
        if _restart_policy(api.inspect_container(original))["Name"] not in ("", "no"):
            api.update_container(original, restart_policy={"Name": "no"})


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
