"""Ollama's HTTP API, as far as narthex asks it.

Every request that is not granted raises :class:`ApiError`; :func:`to_error` turns it into words for people.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from narthex.engines.ollama.eras import has, since
from narthex.engines.ollama.exchange import (
    NO_ANSWER,
    UNREADABLE,
    WEB_PAGE,
    WRONG_HOST,
    Exchange,
    convert,
    decode,
    objects,
    record,
)
from narthex.engines.ollama.names import same
from narthex.engines.ollama.records import ApiError, Resident, Show, Tag
from narthex.errors import EngineError, NarthexError, UsageError

_T = TypeVar("_T")

NO_SUCCESS = "the stream ended without «success»"
TOO_OLD = "this Ollama takes no parameters through its API"


class Api:
    """One server's API. ``url`` may be https and may hold a path before ``/api``.

    Raises UsageError for a URL that makes no sense. The methods raise ApiError: its ``lost`` says that the
    connection was refused or ended early; without a status and not lost, the answer took too long.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        self._exchange = Exchange(url, timeout_s)
        self.url = self._exchange.url
        self.timeout_s = timeout_s

    def version(self) -> str:
        """``0.33.0-rc2``."""
        return self.about()[0]

    def about(self) -> tuple[str, bool]:
        """The version, and whether narthex' own gateway answers instead of an Ollama."""
        found = self._get("/api/version")
        version = found.get("version")
        if not isinstance(version, str):
            raise ApiError(UNREADABLE, status=200)
        return version, "narthex" in found

    def tags(self) -> tuple[Tag, ...]:
        """The stored models, newest first. It lists models whose weights are gone, too."""
        return self._list("/api/tags", Tag)

    def ps(self) -> tuple[Resident, ...]:
        """The loaded models. One that is loading is not listed; one whose process died still is."""
        return self._list("/api/ps", Resident)

    def show(self, model: str, verbose: bool = False) -> Show:
        """One model; ``verbose`` adds array-valued metadata, the vocabulary among it (megabytes).

        Ollama answers from a cache: after the blob changed or vanished, still with what it was.
        """
        # Ollama of early 2024 reads «name», later ones «model»; each ignores the other.
        body = {"model": model, "name": model, "verbose": verbose}
        return record(self._exchange.ask("POST", "/api/show", body, self.timeout_s), Show)

    def preload(
        self,
        model: str,
        options: dict[str, Any] | None = None,
        *,
        keep_alive: int | float | None = None,
        timeout_s: float,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        """Load a model and return once it is there. Leaving early would end the load.

        ``keep_alive`` in seconds, negative for ever. Nothing is loaded where the model is there already with
        these options. ``waiting`` is called every quarter of a second meanwhile.
        """
        body: dict[str, Any] = {"model": model, "stream": False}
        if options is not None:
            body["options"] = options
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        self._exchange.ask("POST", "/api/generate", body, timeout_s, waiting)

    def unload(self, model: str) -> None:
        """Let a model go. Returns at once: requests under way end first, and memory comes back later."""
        body = {"model": model, "keep_alive": 0, "stream": False}
        self._exchange.ask("POST", "/api/generate", body, self.timeout_s)

    def create(self, model: str, source: str, parameters: dict[str, Any]) -> tuple[str, ...]:
        """A new model from a stored one, with other parameters; returns the status lines.

        ``parameters`` are laid over those of ``source``; Ollama checks neither names nor types. A source that
        is not stored here is refused, since Ollama would fetch it from its registry.
        """
        if not has(version := self.version(), "json_create"):
            raise ApiError(f"{TOO_OLD}: it is {version}, and that came with {since('json_create')}")
        if not any(same(tag.name, source) for tag in self.tags()):
            raise ApiError(f"model '{source}' not found", status=http.client.NOT_FOUND)
        body = {"model": model, "from": source, "parameters": parameters}
        told: list[str] = []
        try:
            with self.stream("/api/create", body, timeout_s=max(self.timeout_s, 60.0)) as answers:
                told.extend(str(answer["status"]) for answer in answers if "status" in answer)
        except TimeoutError as error:
            raise ApiError(f"{NO_ANSWER} a minute", status=200) from error
        if "success" not in told:
            raise ApiError(f"{NO_SUCCESS}, after: {told[-1] if told else 'nothing'}", status=200)
        return tuple(told)

    def delete(self, model: str) -> None:
        """Take a model away; a copy that is loaded stays until it expires."""
        self._exchange.ask("DELETE", "/api/delete", {"model": model, "name": model}, self.timeout_s)

    @contextmanager
    def stream(
        self,
        path: str,
        body: dict[str, Any],
        *,
        timeout_s: float,
        waiting: Callable[[], None] | None = None,
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """The answers to one request as they come; leaving the context ends the request.

        An iterator of JSON objects. It raises ApiError for an error line (status 200) or a stream that breaks
        off, and TimeoutError when nothing comes for ``timeout_s``. Whether the last object holds ``done`` is
        the caller's to see: Ollama may end a stream without it. ``waiting`` is called every quarter of a
        second until the first of them; what it raises ends the request.
        """
        with self._exchange.open("POST", path, body, timeout_s, waiting) as response:
            yield objects(response)

    def _get(self, path: str) -> dict[str, Any]:
        return decode(self._exchange.ask("GET", path, None, self.timeout_s))

    def _list(self, path: str, kind: type[_T]) -> tuple[_T, ...]:
        found = self._get(path)
        if not isinstance(models := found.get("models", ()) or (), list | tuple):
            raise ApiError(UNREADABLE, status=200)
        return tuple(convert(model, kind) for model in models)


_LOST = (
    "Ollama at {url} can't be reached: {text}.",
    "Start it with `ollama serve`, or give the right address in OLLAMA_HOST.",
)
# By how the text begins, and by status: what a person is told, and the way out.
_BY_TEXT: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (WEB_PAGE, UNREADABLE),
        "At {url} something answers that is not Ollama: {text}.",
        "A proxy may stand in between; give Ollama's own address, as in http://127.0.0.1:11434.",
    ),
    (
        (WRONG_HOST,),
        "Ollama at {url} refuses requests for this host name (403).",
        "Give an address such as http://127.0.0.1:11434, or let the proxy send «Host: localhost».",
    ),
    (
        (TOO_OLD,),
        "narthex can't {what}: {text}.",
        "Update Ollama, or make the model with its own program: `ollama create NAME -f Modelfile`.",
    ),
    (
        (NO_ANSWER,),
        "Ollama at {url} did not {what}: {text}.",
        "Look at its log; it may be busy with a load.",
    ),
)
_UNKNOWN_MODEL = ("Ollama at {url} can't {what}: {text}.", "`narthex models` lists what it has.")
_BY_STATUS: dict[int, tuple[str, str]] = {
    http.client.NOT_FOUND: (
        "Ollama at {url} can't {what}: {text}.",
        "It may be too old for that, or the address may end in the wrong path.",
    ),
    http.client.SERVICE_UNAVAILABLE: (
        "Ollama at {url} is too busy to {what}: {text}.",
        "Try again when its queue is empty.",
    ),
}
_BY_STATUS[http.client.METHOD_NOT_ALLOWED] = _BY_STATUS[http.client.NOT_FOUND]
_ELSE = ("Ollama at {url} did not {what}: {text}.", "Its log may tell more.")


def to_error(error: ApiError, url: str, what: str) -> NarthexError:
    """What a person is told. ``what`` is what was to be done: «load llama3.2», «list its models»."""
    unknown = error.status == http.client.NOT_FOUND and error.text.startswith("model ")
    by_text = next((row[1:] for row in _BY_TEXT if error.text.startswith(row[0])), None)
    if error.lost:
        sentence, hint = _LOST
    elif unknown:
        sentence, hint = _UNKNOWN_MODEL
    else:
        sentence, hint = by_text or _BY_STATUS.get(error.status or 0, _ELSE)
    message = sentence.format(url=url, what=what, text=error.text.rstrip("."))
    return UsageError(message, hint=hint) if unknown else EngineError(message, hint=hint)
