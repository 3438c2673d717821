"""Offers and requests for the router, and a shelf that holds just these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from narthex.errors import NarthexError
from narthex.gateway.ask import Ask
from narthex.gateway.asking import read_ask
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.policy.names import full_name


def offer(name: str, num_ctx: int | None = 4096, *, profile: str | None = None, **changes: Any) -> Offer:
    """One model of Ollama; with a profile a proven one."""
    values: dict[str, Any] = {
        "key": f"ollama:{profile or name}",
        "backend": "ollama",
        "name": name,
        "model": name,
        "twin": name,
        "num_ctx": num_ctx,
        "profile": profile,
        "proven": profile is not None,
    }
    return Offer(**(values | changes))


class Shelf:
    """Models by their names, each with its further settings."""

    def __init__(self, *groups: Sequence[Offer]) -> None:
        self.problem: Trouble | None = None
        self.generation = 1
        self.faults: dict[str, NarthexError] = {}
        self.groups = groups

    def named(self, name: str) -> Offer | None:
        rows = [each for group in self.groups for each in group]
        by_model = (
            each for group in self.groups for each in group[:1] if full_name(each.name) == full_name(name)
        )
        return next(by_model, None) or next((each for each in rows if each.profile == name), None)

    def fault(self, name: str) -> NarthexError | None:
        return self.faults.get(name)

    def siblings(self, offer: Offer) -> tuple[Offer, ...]:
        group = next(group for group in self.groups if offer in group)
        return tuple(sorted((each for each in group if each != offer), key=lambda each: each.num_ctx or 0))

    def names(self) -> tuple[str, ...]:
        return tuple(group[0].name for group in self.groups)


def ask(model: str, path: str = "/api/chat", task: str | None = None, **body: Any) -> Ask:
    """A chat of one short message."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello."}], **body}
    headers = {} if task is None else {"T": task}
    data = json.dumps(body).encode()
    return read_ask(path, headers, data, request_id="1", client="", now=0.0, task_header="T")
