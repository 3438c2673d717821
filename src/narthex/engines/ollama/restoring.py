"""Bringing back what was loaded: in the old order, with its context and as long as it would have stayed.

What can't be brought back now stays on the note, so that the next run tries again, a few times.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from typing import Any

import msgspec

from narthex import settings
from narthex.engines.ollama import notes
from narthex.engines.ollama.defaults import own_load
from narthex.engines.ollama.discovery import engine_of, look_again
from narthex.engines.ollama.formers import (
    expected_to_miss,
    explicit_keep_alive,
    keep_alive,
    missing_options,
    same_runner,
)
from narthex.engines.ollama.logs import open_log
from narthex.engines.ollama.notes import Former, Note
from narthex.engines.ollama.options import command_options, describe_options, parameters_of
from narthex.engines.ollama.records import ApiError, Resident, Server
from narthex.engines.ollama.served import LEAVE_S, ServedModel, spoken
from narthex.errors import EngineError, NarthexError
from narthex.host.collect import collect_host
from narthex.units import format_duration

SERVER_S = 20.0  # at most, for a server that was just started anew
TRIES = 3  # runs that try to put one model back


class Restorer:
    """Puts back what a note names, one model after the other; each that is back leaves the note, and so does
    one that is gone for good, or that could not be put back :data:`TRIES` times."""

    def __init__(self, server: Server, say: Callable[[str], None], *, all_gone: bool = False) -> None:
        """``all_gone``: everything was unloaded, so what is loaded now was loaded since."""
        self._server = server
        self._say = say
        self._all_gone = all_gone

    def put_back(self, note: Note) -> None:
        """Never raises but for Ctrl-C; then the note keeps what is missing, for the next run."""
        note = _remembered(msgspec.structs.replace(note, at=time.time()))
        if not self._answers():  # by now it may be another process, in another container
            if note.formers:
                names = ", ".join(spoken(former.name) for former in note.formers)
                self._say(f"Ollama does not answer, so {names} could not be put back; the next run does it.")
            return
        stuck = tuple(one for one in note.ours if not self._let_go(one.name))
        note = _remembered(msgspec.structs.replace(note, ours=stuck))
        # Ollama lists what expires last first: loaded the other way round, the list is as it was.
        for former in reversed(note.formers):
            again: Former | None = None
            try:
                self._say(self._put_back(former))
            except ApiError as error:
                if error.lost:
                    name = spoken(former.name)
                    self._say(f"{name} could not be put back: Ollama went away. The next run does it.")
                    return
                again = self._once_more(former, error)
            note = _remembered(_with(note, former, again))
        if not note.formers:
            notes.drop_note(note.url)

    def _once_more(self, former: Former, error: ApiError) -> Former | None:
        """What the next run shall try; None where it is no use. Says which of the two."""
        name = spoken(former.name)
        problem = f"{name} could not be put back: {error.text.rstrip('.')}."
        if error.status == http.client.NOT_FOUND:
            self._say(problem)
            return None
        failed = former.failed + 1
        more = (
            "The next run tries again" if failed < TRIES else f"That was time {failed}, so it is left alone"
        )
        self._say(f"{problem} {more}; {by_hand(name)}.")
        return msgspec.structs.replace(former, failed=failed) if failed < TRIES else None

    def _put_back(self, former: Former) -> str:
        """What to say of it. Raises ApiError."""
        model = ServedModel(self._server, former.name)
        if (resident := _listed(model)) is not None:
            return self._keep(former, model, resident)
        keep = keep_alive(former, self._server)
        options = self._expected_to_miss(former, model)
        model.preload(options or None, keep)
        if (resident := _listed(model)) is None:
            return f"{spoken(former.name)} was put back and is gone again: another client made room."
        now = self._options_now(model)
        context = resident.context_length or now.get("num_ctx")  # Ollama lists it since 0.10.0
        missing = missing_options(former, context, now, self._server)
        if any(options.get(name) != value for name, value in missing.items()):
            options |= missing
            model.unload(wait_s=LEAVE_S)  # what a request leaves out would stay as it is
            model.preload(options, keep)
        words = [describe_options(options)] if options else []
        if former.forever or keep is not None:
            words.append(_stay(-1 if keep is None else keep))
        told = f" ({', '.join(words)})" if words else ""
        return f"Put back: {spoken(former.name)}{told}."

    def _keep(self, former: Former, model: ServedModel, resident: Resident) -> str:
        """What never went: it was told to go after its answer, and is told to stay. Another load of that name
        is somebody's own."""
        name = spoken(former.name)
        contexts = {resident.context_length, former.context_length} - {None}
        if self._all_gone or model.pid() != former.runner or len(contexts) > 1:
            return f"{name} is loaded already and is left as it is."
        keep = explicit_keep_alive(former, self._server)
        if not keep:  # it goes after each answer anyway
            return f"{name} was not unloaded."
        # With these, Ollama takes the runner that is there.
        model.preload(same_runner(former, self._server.version), keep)
        return f"{name} was not unloaded, and stays {_stay(keep)}."

    def _expected_to_miss(self, former: Former, model: ServedModel) -> dict[str, Any]:
        """The options that a load without any would lack, as far as that is known beforehand: to load a big
        model twice takes minutes."""
        log = open_log(self._server)
        try:
            show = model.api.show(model.name)
            engine = engine_of(self._server, collect_host(), log)
            train = show.model_info.get(f"{show.model_info.get('general.architecture')}.context_length")
            train = train if isinstance(train, int) else 0
            parameters = parameters_of(show.parameters)
            own = own_load(self._server, engine, parameters, context_train=train, log=log).knobs
        except (ApiError, NarthexError):
            return {}
        return expected_to_miss(former, own, self._server)

    def _options_now(self, model: ServedModel) -> dict[str, Any]:
        log = open_log(self._server)
        command = model.command(log.start() if log is not None else ())
        return command_options(command) if command is not None else {}

    def _let_go(self, name: str) -> bool:
        try:
            return ServedModel(self._server, name).unload(wait_s=LEAVE_S)
        except ApiError as error:
            self._say(f"{spoken(name)} could not be unloaded: {error.text}.")
            return False

    def _answers(self) -> bool:
        until = time.monotonic() + min(SERVER_S, settings.get("ollama_wait"))
        while True:
            try:
                self._server = look_again(self._server)
            except ApiError:
                if time.monotonic() > until:
                    return False
                time.sleep(0.5)
            else:
                return True


def by_hand(name: str) -> str:
    """How a person loads a model, without asking it anything."""
    return f'by hand: ollama run {name} ""'


def _with(note: Note, former: Former, again: Former | None) -> Note:
    """The note with ``again`` in a model's place, or without it."""
    kept = (again if one.name == former.name else one for one in note.formers)
    return msgspec.structs.replace(note, formers=tuple(one for one in kept if one is not None))


def _remembered(note: Note) -> Note:
    """The note, on paper where there is room: an older one names what is back already, which does no harm."""
    with contextlib.suppress(EngineError):
        notes.write_note(note)
    return note


def _stay(keep: float) -> str:
    return f"for {format_duration(keep)}" if keep >= 0 else "for ever"


def _listed(model: ServedModel) -> Resident | None:
    return next(iter(model.loaded()), None)
