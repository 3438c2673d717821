"""Cheap readings for a watch: which of the services that were found answer now, how full the cards are."""

from __future__ import annotations

import time
from collections.abc import Callable

from narthex.doctor.collect import comfyui, gpu, ollama_servers, openwebui
from narthex.doctor.collect.asking import Answer, all_within, get
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading

ANSWER_S = 1.5
CARDS_S = 10.0  # between two looks at the cards: NVML is asked in a program of its own


class Pulse:
    """Call it again and again. What answered once is looked at from then on."""

    def __init__(self, scope: Scope) -> None:
        """Looks for the services, which may take some seconds."""
        self._scope = scope
        self._known: list[tuple[str, str, str]] = []  # reading, URL, what is asked of it
        for row in ollama_servers.find(scope).asked:
            self._known.append(("ollama.answers", row.url, "/api/version"))
        for spot in openwebui.find(scope):
            self._known.append(("openwebui.answers", spot.url, "/health"))
        for spot in comfyui.find(scope):
            self._known.append(("comfyui.answers", spot.url, "/queue"))
        self._seen: set[str] = set()
        self._cards: tuple[Reading, ...] = ()
        self._cards_at = 0.0

    def __call__(self) -> list[Reading]:
        """Now. Takes two seconds at most, or as long as NVML is waited for."""
        answers = all_within(ANSWER_S + 0.5, [_asker(url + path) for _, url, path in self._known])
        found = []
        for (name, url, _), answer in zip(self._known, answers, strict=True):
            well = answer is not None and bool(answer.record)
            if well:
                self._seen.add(url)
            if url in self._seen:
                found.append(_told(name, url, answer, well))
        return [*found, *self._look_at_cards()]

    def _look_at_cards(self) -> tuple[Reading, ...]:
        if time.monotonic() - self._cards_at >= CARDS_S and self._scope.path("/proc/driver/nvidia").exists():
            self._cards = gpu.collect(self._scope).readings
            self._cards_at = time.monotonic()
        return self._cards


def _asker(url: str) -> Callable[[], Answer]:
    return lambda: get(url, ANSWER_S)


def _told(name: str, url: str, answer: Answer | None, well: bool) -> Reading:
    service = {"ollama": "Ollama", "openwebui": "OpenWebUI", "comfyui": "ComfyUI"}[name.partition(".")[0]]
    if well:
        return Reading(name=name, about=url, value=True, text=f"{service} answers at {url}")
    why = f"no answer within {ANSWER_S:g} s"
    if answer is not None:
        why = answer.error or f"HTTP {answer.status}, and not what it answers"
    return Reading(name=name, about=url, value=False, text=f"{service} at {url} does not answer: {why}")
