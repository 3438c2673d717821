"""A streamed completion of a llama-server, timed.

What the server does is data (``Reply``), never an exception. Plain ``http.client`` in threads: a read that
brings nothing for too long ends by the socket's own time limit, which nothing in this process can hold up.
"""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from narthex.outcomes import Outcome
from narthex.trials.reply import Reply, Request, Stopwatch


class _Timings(msgspec.Struct):
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    cache_n: int = 0


class _Progress(msgspec.Struct):
    total: int = 0
    processed: int = 0


class _Event(msgspec.Struct):
    """The fields of one stream event that matter here; the server sends many more."""

    content: str = ""
    stop: bool = False
    truncated: bool = False
    timings: _Timings | None = None
    prompt_progress: _Progress | None = None
    error: Any = None


def tokenize(url: str, text: str) -> list[int]:
    """Token ids of a text, with the begin-of-text token where the model wants one.

    Raises OSError or ValueError: the caller turns them into data.
    """
    body = msgspec.json.encode({"content": text, "add_special": True})
    connection = _connect(url, 60.0)
    try:
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise ValueError(error_text(answer))
        ids: list[int] = msgspec.json.decode(answer)["tokens"]
        return ids
    except http.client.HTTPException as error:
        raise OSError(f"the engine's answer broke off ({error!r})") from error
    finally:
        connection.close()


def complete(url: str, prompt: Sequence[int], request: Request) -> Reply:
    """One completion of exactly ``request.generate`` tokens; blocks until its end."""
    body = msgspec.json.encode(
        {
            "prompt": list(prompt),
            "n_predict": request.generate,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0.7,
            "seed": 7,
            "stream": True,
            "return_progress": True,  # older builds ignore it
        }
    )
    watch = Stopwatch(request)
    connection = _connect(url, min(request.stall_s, request.timeout_s))
    try:
        connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        return _read(connection.getresponse(), watch, request)
    except TimeoutError:
        return watch.reply(*watch.silence())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return watch.reply(Outcome.REQUEST_FAILED, f"the connection broke off ({error!r})", lost=True)
    finally:
        connection.close()


def error_text(body: bytes) -> str:
    """The server's own words from an error body; the body itself where it is no JSON."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode("utf-8", "replace").strip()[:500]
    return _words(found.get("error", found) if isinstance(found, dict) else found)


def _words(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _connect(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)


def _read(response: http.client.HTTPResponse, watch: Stopwatch, request: Request) -> Reply:
    """Read a stream of server-sent events to its end."""
    if response.status != http.client.OK:
        return watch.reply(Outcome.REQUEST_FAILED, error_text(response.read()))
    while line := response.readline():
        name, _, value = line.partition(b":")
        failure = ""
        if name == b"error":
            failure = error_text(value)
        elif name == b"data" and value.strip() != b"[DONE]":
            event = msgspec.json.decode(value, type=_Event)
            if event.error is None:
                watch.beat()
                if event.stop:
                    return _told(watch.reply(), event)
                _count(event, watch, request)
            else:
                failure = _words(event.error)
        if failure:
            return watch.reply(Outcome.REQUEST_FAILED, failure)
        if over := watch.over():
            return watch.reply(*over)
    return watch.reply(Outcome.REQUEST_FAILED, "the connection ended before the answer did", lost=True)


def _count(event: _Event, watch: Stopwatch, request: Request) -> None:
    progress = event.prompt_progress
    if progress is None:
        watch.token()
    elif request.on_progress and progress.total:
        request.on_progress(progress.processed / progress.total)


def _told(reply: Reply, end: _Event) -> Reply:
    """The reply with the figures of the last event."""
    timings = end.timings or _Timings()
    return msgspec.structs.replace(
        reply,
        prompt_n=timings.prompt_n,
        cache_n=timings.cache_n,
        predicted_n=timings.predicted_n or reply.predicted_n,
        prompt_tps=_rate(timings.prompt_n, timings.prompt_ms),
        # The first token comes with the end of the prompt: n tokens are n − 1 steps of decoding.
        decode_tps=_rate(timings.predicted_n - 1, timings.predicted_ms),
        truncated=end.truncated,
    )


def _rate(count: int, milliseconds: float) -> float | None:
    return count / milliseconds * 1000 if count > 0 and milliseconds > 0 else None
