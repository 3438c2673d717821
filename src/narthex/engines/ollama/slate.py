"""A clean slate before a study, and afterwards everything as it was: the house loop's first and last step."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from narthex.engines.ollama import notes
from narthex.engines.ollama.activity import busy_models
from narthex.engines.ollama.api import to_error
from narthex.engines.ollama.clock import ahead_s
from narthex.engines.ollama.formers import describe, former_of, seconds_left
from narthex.engines.ollama.hand import Hand
from narthex.engines.ollama.loading import KEEP_S
from narthex.engines.ollama.logs import open_log
from narthex.engines.ollama.notes import Former, Note, Ours
from narthex.engines.ollama.records import ApiError, Resident, Server
from narthex.engines.ollama.restoring import Restorer, by_hand
from narthex.engines.ollama.served import ServedModel, spoken
from narthex.errors import EngineError
from narthex.host.gpu import VramReturn, read_gpus
from narthex.units import MIB, format_size

ASK_S = 60.0  # a person is asked after this time
PATIENCE_S = 600.0  # without a person, nobody is disturbed and nothing is tried for longer
KEEP_ROUND_S = 5.0  # between the note of a load and the load
TENANT_BYTES = 256 * MIB  # below that a tenant of the card is a desktop's window, not worth a word

Say = Callable[[str], None]
Ask = Callable[[str], bool]


@contextlib.contextmanager
def clean_slate(
    server: Server, *, say: Say, ask: Ask | None = None, hand: Hand | None = None, flag: str = ""
) -> Iterator[Slate]:
    """Nothing is loaded inside; at the end, also after Ctrl-C or an error, what was loaded is back.

    ``ask`` is given where a person can answer. ``hand`` is given where the user allows to restart the server:
    then it is, if a model does not go or its GPU memory does not come back, and settings that a killed
    narthex left there make room for the user's own. ``flag`` of this command would allow it. Raises
    EngineError where another narthex works with this server, where it stays busy, or where a model does not
    go.
    """
    with notes.only_one(server):
        slate = Slate(server, say, ask, hand, flag=flag)
        try:
            slate.sweep()
            yield slate
        finally:
            slate.put_back()


class Slate:
    """One server's loaded models before narthex came."""

    def __init__(
        self,
        server: Server,
        say: Say,
        ask: Ask | None,
        hand: Hand | None,
        *,
        flag: str = "",
        ask_s: float = ASK_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """``flag``: what on the command line gives a hand; "" where nothing does. ``ask_s``: after that time
        a person is asked. ``patience_s``: so long is waited for a busy model, where nobody can be asked, and
        for an unload."""
        self.server = server
        self.formers: tuple[Former, ...] = ()
        self._ask_s, self._patience_s = ask_s, patience_s
        self._say, self._ask, self._hand, self._flag = say, ask, hand, flag
        self._api = ServedModel(server, "").api
        self._noted = self._swept = False

    def sweep(self) -> None:
        """Tell what is loaded, wait for answers under way, note it down, unload it. Raises EngineError."""
        left = notes.read_note(self.server.url)
        try:
            residents, ahead = self._api.ps(), ahead_s(self.server)
            models = [ServedModel(self.server, resident.name) for resident in residents]
            self._tell(residents, ahead)
            self._wait_for_answers(models)
            self._note_down(models, left, ahead)
            self._unload(models)
            self._swept = True
            self._own_settings()
        except ApiError as error:
            raise to_error(error, self.server.url, "unload its models") from error

    def put_back(self) -> None:
        """Load again what was loaded; what can't be is said. Says nothing where there was nothing, and does
        nothing where the sweep did not get as far as changing something."""
        note = notes.read_note(self.server.url)
        if note is None or not self._noted:
            return
        try:
            Restorer(self.server, self._say, all_gone=self._swept).put_back(note)
        except KeyboardInterrupt:
            left = notes.read_note(self.server.url)
            for former in left.formers if left is not None else ():
                name = spoken(former.name)
                self._say(f"Interrupted; the next run puts back {name}; {by_hand(name)}.")
            raise

    def _tell(self, residents: Sequence[Resident], ahead: float | None) -> None:
        if not residents:
            self._say("Ollama has no model loaded.")
        for resident in residents:
            self._say(f"Loaded in Ollama: {describe(resident, ahead)}.")

    def _wait_for_answers(self, models: Sequence[ServedModel]) -> None:
        begun, told = time.monotonic(), ""
        while busy := busy_models(models):
            names = ", ".join(spoken(name) for name in busy)
            if names != told:
                self._say(f"Answering somebody right now: {names}. Waiting until that is done.")
                told = names
            waited = time.monotonic() - begun
            if self._ask is not None and waited > self._ask_s:
                if self._ask(f"{names} has been busy for {waited:.0f} s. Unload after the present answer?"):
                    return  # an unload waits for the answers under way
                raise _busy(names)
            if self._ask is None and waited > self._patience_s:
                raise _busy(names)

    def _note_down(self, models: Sequence[ServedModel], left: Note | None, ahead: float | None) -> None:
        """On paper before anything changes. What an interrupted run left behind is added to it."""
        log = open_log(self.server)
        lines = log.start() if log is not None and models else []
        found: list[Former] = []
        ours = tuple(one for one in left.ours if self._may_be_there(one)) if left is not None else ()
        for model, resident in self._listed(models):
            stay = seconds_left(resident, ahead)
            longer = stay is not None and stay > KEEP_S + KEEP_ROUND_S  # narthex never keeps one so long
            if not longer and any(ServedModel(self.server, one.name).is_same(resident) for one in ours):
                self._say(f"{spoken(resident.name)} was left behind by an interrupted narthex.")
            else:
                found.append(former_of(model, resident, lines, ahead))
        older = self._of_interrupted(left, found) if left is not None else []
        self.formers = (*older, *found)
        notes.write_note(
            Note(url=self.server.url, pid=os.getpid(), at=time.time(), formers=self.formers, ours=ours)
        )
        self._noted = True

    def _may_be_there(self, ours: Ours) -> bool:
        """Whether what a killed narthex loaded can still be loaded: Ollama let it go since, or was started
        anew. Then a model of that name is the user's."""
        if time.time() - ours.at > KEEP_S + KEEP_ROUND_S:
            return False
        return None in (ours.server, self.server.pid) or ours.server == self.server.pid

    def _listed(self, models: Sequence[ServedModel]) -> Iterator[tuple[ServedModel, Resident]]:
        residents = {resident.name: resident for resident in self._api.ps()}
        return ((model, residents[model.name]) for model in models if model.name in residents)

    def _of_interrupted(self, left: Note, found: Sequence[Former]) -> list[Former]:
        """What was loaded before a run that could not put it back, as far as it would still be there."""
        passed = time.time() - left.at
        known = {former.name for former in found}
        kept: list[Former] = []
        for former in left.formers:
            if former.name in known:
                continue
            name = spoken(former.name)
            rest = former.seconds_left - passed if former.seconds_left is not None else None
            if not former.forever and (rest is None or rest <= 0):
                self._say(f"{name} was loaded before an interrupted run; its time is over by now.")
                continue
            how = "an earlier run could not put it back" if former.failed else "that run was interrupted"
            self._say(f"{name} was loaded before an earlier run, and {how}; it is put back at the end.")
            kept.append(msgspec.structs.replace(former, seconds_left=rest))
        return kept

    def _unload(self, models: Sequence[ServedModel]) -> None:
        sizes = {resident.name: resident.size_vram or 0 for resident in self._api.ps()}
        memories = [model.memory(sizes.get(model.name, 0)) for model in models]
        for model in models:
            self._say(f"Unloading {spoken(model.name)}.")
            if not model.unload(wait_s=self._patience_s):
                self._firmly(f"{spoken(model.name)} can't be unloaded")
                break
        else:
            self._confirm(memories if models else [])

    def _own_settings(self) -> None:
        """The user's own settings again, where a killed narthex left its own and a hand may act."""
        if self._hand is not None and self._hand.changed:
            self._say("An interrupted narthex left its own settings in that server; yours are put back.")
            self.server = self._hand.restore()

    def _confirm(self, memories: Sequence[VramReturn | None]) -> None:
        """That the GPU memory is free, or who holds it."""
        if self.server.place == "elsewhere":
            self._say("Ollama runs where its GPU can't be seen from here: its free memory is taken on trust.")
            return
        back = [memory.is_back() for memory in memories if memory is not None]
        if False in back and self._hand is not None:
            self._firmly("The GPU memory of an unloaded model did not come back")
        elif False in back:
            self._say("The GPU memory of an unloaded model did not come back.")
        for card in read_gpus()[0]:
            tenants = [row for row in card.processes if (row.vram_bytes or 0) >= TENANT_BYTES]
            held = ", ".join(
                f"{row.name or 'a program'} (process {row.pid}, {format_size(row.vram_bytes)})"
                for row in tenants
            )
            free = f"{format_size(card.free_bytes)} of {format_size(card.total_bytes)} are free"
            self._say(f"GPU {card.index}: {free}{f'; held by {held}' if held else ''}.")

    def _firmly(self, why: str) -> None:
        """Restart the server where the user allows it. Raises EngineError where not."""
        if self._hand is None:
            other = f"allow a restart of Ollama with {self._flag}" if self._flag else "restart Ollama"
            raise EngineError(
                f"{why}: somebody uses it, or loads it again and again.",
                hint=f"Stop that program, or {other}.",
            )
        self._say(f"{why}; restarting {self._hand.words}.")
        self.server = self._hand.restart()


def _busy(names: str) -> EngineError:
    return EngineError(
        f"{names} is answering somebody all the time, so nothing was measured and nothing was unloaded.",
        hint="Try again when it is idle, or stop the program that asks it.",
    )
