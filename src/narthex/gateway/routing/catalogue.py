"""``Catalogue``: everything that can be asked for, by its names. Looked up anew, it changes only where
something did."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from narthex import paths, settings
from narthex.engines._base import Engine
from narthex.engines.ollama.api import to_error
from narthex.engines.ollama.records import ApiError
from narthex.errors import NarthexError
from narthex.gateway.offer import Offer
from narthex.gateway.routing.files import Files, State, stamp
from narthex.gateway.routing.held import Held
from narthex.gateway.routing.need import Needs
from narthex.gateway.routing.offers import Listed, file_offers, ollama_offers
from narthex.gateway.trouble import Trouble
from narthex.host.gpu import read_gpus
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.policy.names import full_name
from narthex.policy.records import Policy
from narthex.profiles.profile import Profile
from narthex.profiles.store import list_profiles

SEARCH_S = 10.0  # between two searches for an Ollama that nobody named and that was not there


class Catalogue:
    """What is offered. All of it belongs to the event loop; what blocks runs in a thread.

    ``ollama``: its URL, None for the one that is found; ``with_ollama`` False: none is asked. ``journal``:
    the user's own by default. ``generation`` grows with every change, for those who remember something.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        ollama: str | None = None,
        with_ollama: bool = True,
        journal: Path | None = None,
    ) -> None:
        self.problem: Trouble | None = None
        self.generation = 0
        self._policy = policy
        self._url, self._with_ollama = ollama, with_ollama
        self._journal = journal or paths.journal_path()
        self._needs = Needs(self._journal)
        self._held: Held | None = None
        self._named = ollama is not None  # else it is no fault that none is there
        self._searched = -SEARCH_S
        self._state: State | None = None
        self._rows: tuple[Listed, ...] = ()
        self._models: dict[str, Offer] = {}  # Ollama's, by their full names
        self._names: dict[str, Offer] = {}
        self._groups: dict[str, str] = {}
        self._shown: tuple[str, ...] = ()
        self._files = Files()
        self._lock = asyncio.Lock()

    # what is there

    def offers(self) -> tuple[Offer, ...]:
        """Everything that may be asked, Ollama's first."""
        return tuple(row.offer for row in self._rows)

    def named(self, name: str) -> Offer | None:
        """One by the name of a model in any spelling of Ollama's, of a profile, or of a file; None where
        there is none. No name leads to a file that is not listed."""
        found = self._models.get(full_name(name))
        if found is None:
            word = name.strip().casefold()
            found = self._names.get(word) or self._names.get(word.removesuffix(":latest"))
        return found

    def siblings(self, offer: Offer) -> tuple[Offer, ...]:
        """The other settings of the same model, the one with the least context first."""
        group = self._groups.get(offer.key)
        found = (row.offer for row in self._rows if row.group == group and row.offer.key != offer.key)
        return tuple(sorted(found, key=lambda each: each.num_ctx or 0))

    def fault(self, name: str) -> NarthexError | None:
        """Why the model file that is meant can't be offered; None where it can, or where none is meant."""
        return self._files.fault(name)

    def names(self) -> tuple[str, ...]:
        """What can be asked for, as it is shown."""
        return self._shown

    def tags(self) -> tuple[msgspec.Raw, ...]:
        """The entries of Ollama's own list as they came, without stubs of cloud models."""
        return self._held.raw if self._held is not None else ()

    @property
    def held(self) -> Held | None:
        """The Ollama, as it was last seen."""
        return self._held

    # looking again

    def change(self, policy: Policy) -> None:
        """Another policy; it counts from the next :meth:`refresh` on."""
        self._policy, self._state = policy, None

    async def refresh(self) -> None:
        """Look again. Never raises: where Ollama does not answer, the list stays, and ``problem`` is why."""
        async with self._lock:
            problem = await asyncio.to_thread(self._look_at_ollama)
            try:
                rows = await asyncio.to_thread(self._rows_now)
            except NarthexError as error:
                problem = problem or Trouble(500, "journal_unreadable", error.message, remedy=error.hint)
                rows = None
            if rows is not None:
                self._take(rows)
            missed = self._named or self._held is not None or not self._rows
            self.problem = problem if missed else None

    def _take(self, rows: tuple[Listed, ...]) -> None:
        """Two settings that are one load are one offer, with the names of both."""
        first = {row.offer.key: row for row in reversed(rows)}
        tags = {full_name(tag.name) for tag in self._held.tags} if self._held is not None else set()
        models: dict[str, Offer] = {}
        names: dict[str, Offer] = {}
        for row in rows:
            offer = first[row.offer.key].offer
            for name in row.names:
                if offer.backend == "ollama" and full_name(name) in tags:
                    models.setdefault(full_name(name), offer)
                else:
                    names.setdefault(name.casefold(), offer)
        self._shown = tuple(dict.fromkeys(name for row in rows for name in row.names))
        self._rows = tuple(row for row in rows if first[row.offer.key] is row)
        self._models, self._names = models, names
        self._groups = {row.offer.key: row.group for row in rows}
        self.generation += 1

    def _look_at_ollama(self) -> Trouble | None:
        """In a thread. What kept it from being listed; None where it was."""
        if not self._with_ollama:
            return None
        try:
            if self._held is None:
                now = time.monotonic()
                if self._url is None and now - self._searched < SEARCH_S:
                    return self.problem
                self._searched = now
                self._named = self._url is not None or bool(settings.get("ollama_host"))
                found = Held.find(self._url)
                found.look()
                self._held = found
                self._state = None
            elif self._held.look():
                self._state = None
        except ApiError as error:
            url = self._held.server.url if self._held else self._url or "its address"
            plain = to_error(error, url, "list its models")
            return _unreachable(plain.message, plain.hint)
        except NarthexError as error:
            return _unreachable(error.message, error.hint)
        return None

    def _rows_now(self) -> tuple[Listed, ...] | None:
        """In a thread. The list as it is now; None where nothing is another than before."""
        journal = stamp(self._journal)
        if (journal, self._files.state()) == self._state:
            return None
        if self._state is None or self._state[0] != journal:
            self._needs.forget()
        profiles = self._profiles()
        card = bool(read_gpus(processes=False)[0])
        rows: list[Listed] = []
        if self._held is not None:
            rows += ollama_offers(self._held, profiles, self._policy, self._need)
        known = {full_name(name) for row in rows for name in row.names}
        alone = not rows and not self._named and self._held is None  # one that is down for now comes back
        found = list(self._files.named(self._policy, profiles, known, alone=alone))
        rows += file_offers(found, profiles, self._policy, self._need, card=card)
        self._state = (journal, self._files.state())
        return tuple(rows)

    def _need(
        self, inspection: Inspection, knobs: KnobValues, engine: Engine | None, card: bool
    ) -> int | None:
        return self._needs.of(inspection, knobs, engine, card=card)

    def _profiles(self) -> list[Profile]:
        if not self._journal.exists():
            return []
        with Journal.open(self._journal) as journal:
            return list_profiles(journal)


def _unreachable(message: str, hint: str) -> Trouble:
    return Trouble(503, "ollama_unreachable", message, remedy=hint, retry_after_s=5)
