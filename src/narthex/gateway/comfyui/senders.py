"""``Senders``: whose prompts run, so that nobody stops another's."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from aiohttp import web

KEPT = 4096  # prompts that are remembered; one that is forgotten counts as another's


class Sender(NamedTuple):
    """As far as one can tell clients apart: the name of the key, the address, and the program."""

    key: str
    address: str
    program: str


def sender_of(request: web.BaseRequest, client: str) -> Sender:
    """Who asks. ``client`` is the name of its key, "" without keys."""
    return Sender(client, request.remote or "", request.headers.get("User-Agent", ""))


class Senders:
    """Prompts that came through here."""

    def __init__(self) -> None:
        self._by_prompt: OrderedDict[str, Sender] = OrderedDict()

    def sent(self, prompt_id: str, sender: Sender) -> None:
        """ComfyUI took it."""
        self._by_prompt[prompt_id] = sender
        if len(self._by_prompt) > KEPT:
            self._by_prompt.popitem(last=False)

    def owns(self, prompt_id: str, sender: Sender) -> bool:
        """Whether this one sent it."""
        return self._by_prompt.get(prompt_id) == sender
