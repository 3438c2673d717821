"""Where the listing takes what it tells from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Snapshot
from narthex.gateway.trouble import Trouble

Entry = dict[str, Any]
"""One element of a list of Ollama's; a value that was not touched is a ``msgspec.Raw``."""


class Shelf(Protocol):
    """The models there are."""

    @property
    def problem(self) -> Trouble | None:
        """Why the list is not today's; None where it is."""
        ...

    async def refresh(self) -> None:
        """Look again. Never raises: ``problem`` tells."""
        ...

    def offers(self) -> tuple[Offer, ...]:
        """Everything that may be asked."""
        ...

    def names(self) -> tuple[str, ...]:
        """What can be asked for, in every spelling that is shown."""
        ...

    def named(self, name: str) -> Offer | None:
        """One by its name, in any of its spellings."""
        ...

    def tags(self) -> Sequence[msgspec.Raw]:
        """Ollama's own entries of ``/api/tags``, as they came."""
        ...


class Roles(Protocol):
    """What each role would take now."""

    def roles(self) -> Mapping[str, Offer | None]:
        """Role → its first choice that is there; None where none is."""
        ...


class Card(Protocol):
    """What is loaded."""

    def snapshot(self) -> Snapshot:
        """Everything at this moment."""
        ...


class Describer(Protocol):
    """Entries in Ollama's shape for what Ollama does not hold."""

    def tag_of(self, offer: Offer) -> Entry:
        """An element of ``/api/tags``."""
        ...

    def show_of(self, offer: Offer, *, verbose: bool) -> Entry:
        """An answer of ``/api/show``. Raises Trouble where the file can't be read."""
        ...
