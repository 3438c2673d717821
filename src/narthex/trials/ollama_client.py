"""A streamed generation of an Ollama, timed. What the server does is data (``Reply``), never an exception.

Durations come in nanoseconds, and fields that are zero are left out. ``prompt_eval_count`` may count tokens
from a cache whose work ``prompt_eval_duration`` does not hold: prompts must be unique from their first word.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterable
from typing import Any

import msgspec

from narthex.engines.ollama.api import Api
from narthex.engines.ollama.records import ApiError
from narthex.outcomes import Outcome
from narthex.trials.reply import Reply, Request, Stopwatch

LOADED_S = 0.5
"""A longer ``load_duration`` is a load, or waiting for one: a warm runner is granted within milliseconds."""
_TOO_LONG = re.compile(
    r"request \((\d+) tokens\) exceeds the available context size"  # llama-server's words, since 0.30
    r"|prompt is longer than the context length"
    r"|input length exceeds the context length"
    r"|input length exceeds maximum context length"
)


class _Answer(msgspec.Struct):
    """The fields of one object of the stream that matter here; all but the first come with the last one."""

    done: bool = False
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class _Left(Exception):
    """The user does not wait any longer."""


class OllamaClient:
    """Asks one loaded model. ``options`` must hold what it was loaded with, else Ollama loads it anew."""

    def __init__(self, url: str, model: str, options: dict[str, Any]) -> None:
        self._api = Api(url)
        self._model = model
        self._options = options
        self._cut = threading.Event()

    def generate(self, prompt: str, request: Request) -> Reply:
        """One answer of ``request.generate`` tokens at most; blocks until its end, or until :meth:`leave`."""
        watch = Stopwatch(request, tells_progress=False)
        silence = min(request.stall_s, request.timeout_s)
        body = self._body(prompt, request)
        try:
            with self._api.stream("/api/generate", body, timeout_s=silence, waiting=self._look) as answers:
                return self._follow(answers, watch)
        except TimeoutError:
            return watch.reply(*watch.silence())
        except ApiError as error:
            return _failed(watch, error)
        except msgspec.ValidationError as error:
            return watch.reply(Outcome.REQUEST_FAILED, f"the answer is not Ollama's: {error}")
        except _Left:
            return watch.reply(Outcome.INTERRUPTED, "stopped by the user")

    def leave(self) -> None:
        """End what runs: Ollama unloads no model that still answers."""
        self._cut.set()

    def _body(self, prompt: str, request: Request) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": prompt,
            "raw": True,
            "stream": True,
            "truncate": False,  # since 0.12.6; older ones ignore it and cut without a word
            "options": {
                **self._options,
                "num_predict": max(1, request.generate),  # a 0 is dropped, and then there is no limit
                "temperature": 0.7,  # a greedy answer runs into 30 equal tokens, which end it
                "seed": 7,
                "stop": [],  # a Modelfile's own stop words would end it, too
            },
        }

    def _look(self) -> None:
        if self._cut.is_set():
            raise _Left

    def _follow(self, answers: Iterable[dict[str, Any]], watch: Stopwatch) -> Reply:
        for found in answers:
            self._look()
            answer = msgspec.convert(found, _Answer)
            watch.beat()
            if answer.done:
                return _told(watch.reply(), answer)
            watch.token()
            if over := watch.over():
                return watch.reply(*over)
        if watch.generated:
            return msgspec.structs.replace(watch.reply(), ended=False)
        return watch.reply(Outcome.REQUEST_FAILED, "the answer ended before it began", lost=True)


def _failed(watch: Stopwatch, error: ApiError) -> Reply:
    if refused := _TOO_LONG.search(error.text):
        count = refused.group(1)
        reply = watch.reply(Outcome.PROMPT_TRUNCATED, error.text)
        return msgspec.structs.replace(reply, refused_n=int(count) if count else None)
    if error.status == http.client.SERVICE_UNAVAILABLE:
        return watch.reply(Outcome.QUEUE_FULL, error.text)
    return watch.reply(Outcome.REQUEST_FAILED, error.text, lost=error.lost)


def _told(reply: Reply, end: _Answer) -> Reply:
    """The reply with the figures of the last object."""
    load_s = end.load_duration / 1e9
    known = end.load_duration + end.prompt_eval_duration + end.eval_duration
    doubt = f"the server loaded for {load_s:.1f} s before an answer: the model, or another one"
    return msgspec.structs.replace(
        reply,
        prompt_n=end.prompt_eval_count,
        predicted_n=end.eval_count or reply.predicted_n,
        prompt_tps=_rate(end.prompt_eval_count, end.prompt_eval_duration),
        # The first token comes with the end of the prompt: n tokens are n − 1 steps of decoding.
        decode_tps=_rate(end.eval_count - 1, end.eval_duration),
        # Waiting for a slot is in no field of its own; nor are some milliseconds for making tokens.
        waited_s=max(0.0, (end.total_duration - known) / 1e9),
        doubts=(doubt,) if load_s > LOADED_S else (),
    )


def _rate(count: int, nanoseconds: int) -> float | None:
    return count / nanoseconds * 1e9 if count > 0 and nanoseconds > 0 else None
