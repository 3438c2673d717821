"""One or many streamed completions of a llama-server, timed.

What the server does is data (``Reply``), never an exception. Plain ``http.client`` in threads: a read that
brings nothing for too long ends by the socket's own time limit, which nothing in this process can hold up.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from narthex.outcomes import Outcome

OnToken = Callable[[int], None]
"""Called after each generated token with their number so far, from the stream's own thread."""
OnProgress = Callable[[float], None]
"""Called while the prompt is read, with its share done in 0…1."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """How one completion went. Rates are the engine's own; ``None`` where it did not get that far."""

    outcome: Outcome = Outcome.DONE
    error: str = ""  # the server's own words, or what happened to the connection
    lost: bool = False  # the connection ended early: ask the engine why
    seconds: float = 0.0
    ttft_s: float | None = None  # our clock: request sent → first token
    prompt_n: int = 0  # tokens computed
    cache_n: int = 0  # tokens taken from a cache: 0, or the figures mean nothing
    predicted_n: int = 0
    prompt_tps: float | None = None
    decode_tps: float | None = None
    longest_gap_s: float = 0.0  # between two events of the stream
    truncated: bool = False


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


class _Stream:
    """The state of one completion while it runs."""

    def __init__(
        self, stall_s: float, timeout_s: float, on_token: OnToken | None, on_progress: OnProgress | None
    ) -> None:
        self.stall_s = stall_s
        self.timeout_s = timeout_s
        self.on_token = on_token
        self.on_progress = on_progress
        self.started = self.last = time.monotonic()
        self.first: float | None = None
        self.generated = 0
        self.gap = 0.0
        self.end: _Event | None = None

    def beat(self) -> None:
        """Something came."""
        now = time.monotonic()
        self.gap = max(self.gap, now - self.last)
        self.last = now

    def take(self, event: _Event) -> None:
        """Count one event."""
        self.beat()
        if event.stop:
            self.end = event
        elif event.prompt_progress is not None:
            if self.on_progress and event.prompt_progress.total:
                self.on_progress(event.prompt_progress.processed / event.prompt_progress.total)
        else:
            self.first = self.first or self.last
            self.generated += 1
            if self.on_token:
                self.on_token(self.generated)

    def over(self) -> Reply | None:
        """The reply where a limit was passed. Comment lines are signs of life, not progress."""
        now = time.monotonic()
        if now - self.last > self.stall_s:
            return self.reply(Outcome.STALLED, f"the engine made no progress for {self.stall_s:.0f} s")
        if now - self.started > self.timeout_s:
            return self.reply(Outcome.TIMEOUT, f"no end after {self.timeout_s:.0f} s")
        return None

    def reply(self, outcome: Outcome, error: str, *, lost: bool = False) -> Reply:
        """What is known now."""
        now = time.monotonic()
        timings = (self.end.timings if self.end else None) or _Timings()
        return Reply(
            outcome=outcome,
            error=error,
            lost=lost,
            seconds=now - self.started,
            ttft_s=self.first - self.started if self.first else None,
            prompt_n=timings.prompt_n,
            cache_n=timings.cache_n,
            predicted_n=timings.predicted_n or self.generated,
            prompt_tps=_rate(timings.prompt_n, timings.prompt_ms),
            # The first token comes with the end of the prompt: n tokens are n − 1 steps of decoding.
            decode_tps=_rate(timings.predicted_n - 1, timings.predicted_ms),
            longest_gap_s=max(self.gap, now - self.last),
            truncated=bool(self.end and self.end.truncated),
        )


def _rate(count: int, milliseconds: float) -> float | None:
    return count / milliseconds * 1000 if count > 0 and milliseconds > 0 else None


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


def complete(
    url: str,
    prompt: Sequence[int],
    *,
    generate: int,
    stall_s: float,
    timeout_s: float,
    on_token: OnToken | None = None,
    on_progress: OnProgress | None = None,
) -> Reply:
    """One completion of exactly ``generate`` tokens; blocks until its end.

    ``stall_s``: silence that counts as a stall; a server is silent while it computes one batch of the prompt.
    ``timeout_s``: the longest that it may take, progress or not.
    """
    body = msgspec.json.encode(
        {
            "prompt": list(prompt),
            "n_predict": generate,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0.7,
            "seed": 7,
            "stream": True,
            "return_progress": True,  # older builds ignore it
        }
    )
    stream = _Stream(stall_s, timeout_s, on_token, on_progress)
    connection = _connect(url, min(stall_s, timeout_s))
    try:
        connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        return _read(connection.getresponse(), stream)
    except TimeoutError:
        if timeout_s <= stall_s:
            return stream.reply(Outcome.TIMEOUT, f"no end after {timeout_s:.0f} s")
        return stream.reply(Outcome.STALLED, f"the engine sent nothing for {stall_s:.0f} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return stream.reply(Outcome.REQUEST_FAILED, f"the connection broke off ({error!r})", lost=True)
    finally:
        connection.close()


def complete_many(
    url: str,
    prompts: Sequence[Sequence[int]],
    *,
    generate: int,
    stall_s: float,
    timeout_s: float,
    on_token: OnToken | None = None,
    on_progress: OnProgress | None = None,
) -> list[Reply]:
    """Several completions at once, one thread each; their replies in the order of the prompts."""
    replies: list[Reply | None] = [None] * len(prompts)

    def work(index: int) -> None:
        replies[index] = complete(
            url,
            prompts[index],
            generate=generate,
            stall_s=stall_s,
            timeout_s=timeout_s,
            on_token=on_token,
            on_progress=on_progress,
        )

    # Daemon threads: after Ctrl-C the engine is stopped, which ends their connections.
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gone = Reply(outcome=Outcome.REQUEST_FAILED, error="the stream's thread ended early", lost=True)
    return [reply or gone for reply in replies]


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


def _read(response: http.client.HTTPResponse, stream: _Stream) -> Reply:
    """Read a stream of server-sent events to its end."""
    if response.status != http.client.OK:
        return stream.reply(Outcome.REQUEST_FAILED, error_text(response.read()))
    while line := response.readline():
        name, _, value = line.partition(b":")
        failure = ""
        if name == b"error":
            failure = error_text(value)
        elif name == b"data" and value.strip() != b"[DONE]":
            event = msgspec.json.decode(value, type=_Event)
            if event.error is None:
                stream.take(event)
            else:
                failure = _words(event.error)
        if failure:
            return stream.reply(Outcome.REQUEST_FAILED, failure)
        if stream.end is not None:
            return stream.reply(Outcome.DONE, "")
        if over := stream.over():
            return over
    return stream.reply(Outcome.REQUEST_FAILED, "the connection ended before the answer did", lost=True)
