"""``Shows``: answers to ``/api/show``. They are large (every tensor's name), so each is asked for once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from narthex.gateway.body import UNREADABLE
from narthex.gateway.listing.ollama import OllamaView
from narthex.gateway.listing.sources import Describer, Shelf
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble

MOST = 32  # answers kept; each has 0.1 to 1 MiB, with a vocabulary some MiB
MOST_BYTES = 32 << 20

_Fields = dict[str, msgspec.Raw]
_fields = msgspec.json.Decoder(_Fields)
_names = msgspec.json.Decoder(str)


class Shows:
    """One gateway's. A model's answer holds until its digest is another."""

    def __init__(self, shelf: Shelf, describe: Describer, ollama: OllamaView | None) -> None:
        self._shelf, self._describe, self.ollama = shelf, describe, ollama
        self._kept: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()

    async def answer(self, body: bytes, roles: Mapping[str, Offer | None]) -> tuple[int, bytes, Offer | None]:
        """Status, body, and what it is about. Raises Trouble where there is no such model."""
        fields, name = _read(body)
        role = name if name in roles else name.removesuffix(":latest")
        offer = roles[role] if role in roles else self._shelf.named(name)
        if role in roles and offer is None:
            raise Trouble(
                404,
                "role_unavailable",
                f"Nothing that the role «{role}» may use is there.",
                remedy="`narthex route` tells why; its models stand in narthex.toml below [roles].",
            )
        if offer is not None and offer.backend == "llama-server":
            verbose = bytes(fields.get("verbose", b"")) == b"true"
            return 200, msgspec.json.encode(self._describe.show_of(offer, verbose=verbose)), offer
        if self.ollama is None:
            raise Trouble(
                404,
                "model_not_found",
                f"There is no model «{name}».",
                remedy="GET /api/tags lists what there is.",
            )
        asked = offer.model if offer is not None else name
        status, answer = await self._of_ollama(fields, asked, offer.digest if offer is not None else "")
        return status, answer, offer

    async def _of_ollama(self, fields: _Fields, model: str, digest: str) -> tuple[int, bytes]:
        assert self.ollama is not None
        rest = {key: value for key, value in fields.items() if key not in {"name", "model"}}
        body = msgspec.json.encode({"model": model, **rest})
        key = (digest, body)
        if digest and key in self._kept:
            self._kept.move_to_end(key)
            return 200, self._kept[key]
        status, answer = await self.ollama.show(body)
        if status == 200:
            _must_tell(answer, model)
            if digest:
                self._keep(key, answer)
        return status, answer

    def _keep(self, key: tuple[str, bytes], answer: bytes) -> None:
        self._kept[key] = answer
        while len(self._kept) > 1 and (
            len(self._kept) > MOST or sum(map(len, self._kept.values())) > MOST_BYTES
        ):
            self._kept.popitem(last=False)


def _must_tell(answer: bytes, model: str) -> None:
    """Whatever else answers there is not kept for a model's description. Raises Trouble."""
    try:
        _fields.decode(answer)
    except UNREADABLE as error:
        raise Trouble(
            502,
            "engine_failed",
            f"What came back about «{model}» is no answer of Ollama's ({error}).",
            remedy="Another program may answer at its address; GET /readyz tells which that is.",
        ) from None


def _read(body: bytes) -> tuple[_Fields, str]:
    """The request's fields and the model's name; ``name`` is the older word for it."""
    try:
        fields = _fields.decode(body)
        name = _names.decode(fields.get("model") or fields.get("name") or b'""')
    except UNREADABLE as error:
        raise Trouble(
            400,
            "bad_request",
            f"The request can't be read as JSON ({error}).",
            remedy='Send {"model": "NAME"}.',
        ) from None
    if not name:
        raise Trouble(400, "bad_request", "The request names no model.", remedy='Send {"model": "NAME"}.')
    return fields, name
