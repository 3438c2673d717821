"""``narthex doctor --fix``: takes the steps that narthex may take, one at a time, and looks again after each.

What is safe is done when somebody says yes, or with ``--yes``. What interrupts somebody is only done when a
person at the terminal says yes to just that. What needs root is shown and never run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from http.client import HTTPException
from typing import Protocol

import msgspec

from narthex.doctor.collect.asking import Late, within
from narthex.doctor.finding import SURE, Command, Diagnosis, Finding
from narthex.doctor.local_request import post
from narthex.doctor.record import Record
from narthex.doctor.redact import hide_secrets

STEP_S = 60.0  # a step that takes longer is ended
_LEAVE_S = 3.0
_TO_ROOT = ("sudo", "su", "doas", "pkexec", "run0")
_ANSWER = 2000  # characters of an answer that are kept, its end


class Talk(Protocol):
    """The person, or nobody."""

    present: bool  # somebody can answer

    def say(self, text: str) -> None:
        """Tell something."""

    def show(self, command: Command) -> None:
        """Show a step in full."""

    def ask(self, question: str) -> bool:
        """Yes or no."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen after a step. ``gone`` None: it could not be told."""

    gone: bool | None
    text: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """How a step went."""

    worked: bool
    answer: str


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a finding: the steps that worked, and whether it is gone."""

    finding: Finding
    steps: tuple[str, ...] = ()
    gone: bool | None = None


class Way(Enum):
    """What is done with a step."""

    RUN = "run"
    ASK = "ask"
    SHOW = "show"


Recheck = Callable[[Finding, float], Check]
"""Takes a finding and since when to look (seconds since 1970)."""


def way_of(command: Command, *, yes: bool, present: bool, sure: bool) -> Way:
    """``yes``: safe steps need no question. ``sure``: it is no mere suspicion."""
    if not _is_own(command):
        return Way.SHOW
    if yes and command.safe and sure:
        return Way.RUN
    return Way.ASK if present else Way.SHOW


def mend(diagnosis: Diagnosis, talk: Talk, record: Record, recheck: Recheck, *, yes: bool) -> list[Mended]:
    """Go through the findings, the root causes only: what follows from them goes with them.

    Ctrl-C says what was done up to there, and goes on.
    """
    results: list[Mended] = []
    todo = [finding for finding in diagnosis.findings if finding.is_trouble and not finding.consequence_of]
    for finding in todo:
        work = _Work(finding, talk, record, recheck, yes)
        try:
            work.go()
        except KeyboardInterrupt:
            talk.say(_so_far([*results, work.result()]))
            raise
        results.append(work.result())
    return results


class _Work:
    """The remedy of one finding."""

    def __init__(self, finding: Finding, talk: Talk, record: Record, recheck: Recheck, yes: bool) -> None:
        self._finding, self._talk, self._record, self._recheck = finding, talk, record, recheck
        self._yes = yes
        self._sure = finding.confidence >= SURE
        self._steps: list[str] = []
        self._gone: bool | None = None

    def go(self) -> None:
        """Each step in turn, until it is gone."""
        finding = self._finding
        title = finding.title.rstrip(".") if self._sure else f"Maybe: {finding.title.rstrip('.')}"
        self._talk.say(f"\n{title}. {finding.remedy.text}")
        ways = {self._way(command) for command in finding.remedy.commands}
        if not ways - {Way.SHOW}:
            self._talk.say(self._why_nothing())
            return
        for command in finding.remedy.commands:
            self._talk.show(command)
            if not self._shall(command):
                continue
            began = time.time()
            if self._take(command):
                self._look_again(began)
            if self._gone:
                return

    def result(self) -> Mended:
        """What became of it so far."""
        return Mended(finding=self._finding, steps=tuple(self._steps), gone=self._gone)

    def _way(self, command: Command) -> Way:
        return way_of(command, yes=self._yes, present=self._talk.present, sure=self._sure)

    def _why_nothing(self) -> str:
        """Not one step may be taken; they stand in the diagnosis."""
        commands = self._finding.remedy.commands
        if not any(_is_own(command) for command in commands):
            return "Its steps are yours to take; narthex takes none of them by itself."
        if self._yes and not self._sure:
            return "It is only a suspicion, and nobody is here to say yes: nothing is done."
        return "Nobody is here to say yes: nothing is done."

    def _shall(self, command: Command) -> bool:
        way = self._way(command)
        if way is Way.SHOW:
            self._talk.say(_why_only_shown(command))
            return False
        question = "Do it?" if command.safe else "It interrupts what is running. Do it?"
        return way is Way.RUN or self._talk.ask(question)

    def _take(self, command: Command) -> bool:
        try:
            done = perform(command)
        except KeyboardInterrupt:
            self._record.remedy(self._finding, command.text, "interrupted", "")
            self._talk.say(f"This step was cut off, and it may have been done in part: {command.text}")
            raise
        self._record.remedy(self._finding, command.text, "done" if done.worked else "failed", done.answer)
        if done.worked:
            self._steps.append(command.text)
        self._talk.say(_how_it_went(command, done))
        return done.worked

    def _look_again(self, since: float) -> None:
        check = self._recheck(self._finding, since)
        self._gone = check.gone
        self._record.check(self._finding, check.gone, check.text)
        self._talk.say(check.text)


def perform(command: Command, time_s: float = STEP_S) -> Done:
    """Take one step: a program without a shell, or a request to a service on this machine."""
    if command.request is not None:
        try:
            status, answer = within(time_s, partial(post, command.request, time_s))
        except Late:
            return Done(worked=False, answer=f"no answer within {time_s:g} s")
        except (OSError, HTTPException, ValueError) as error:
            return Done(worked=False, answer=str(error) or type(error).__name__)
        return Done(worked=200 <= status < 300, answer=f"{status} {_end(answer)}".strip())
    return _run(command.argv, time_s)


def _run(argv: Sequence[str], time_s: float) -> Done:
    """In a session of its own, so that Ctrl-C comes to narthex, which then ends it."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Done(worked=False, answer=f"{argv[0]}: {error.strerror}")
    try:
        printed, _ = process.communicate(timeout=time_s)
    except subprocess.TimeoutExpired:
        _end_group(process)
        return Done(worked=False, answer=f"it took longer than {time_s:g} s and was ended")
    except BaseException:
        _end_group(process)
        raise
    if process.returncode and not printed.strip():
        printed = f"exit code {process.returncode}"
    return Done(worked=process.returncode == 0, answer=_end(printed))


def _end_group(process: subprocess.Popen[str]) -> None:
    """What this module started, and what that started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.communicate(timeout=_LEAVE_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def _is_own(command: Command) -> bool:
    """Whether narthex may take it at all; a remedy that forgot to say «root» gets none."""
    above = bool(command.argv) and os.path.basename(command.argv[0]) in _TO_ROOT
    return not command.root and not above and bool(command.argv or command.request)


def _why_only_shown(command: Command) -> str:
    if _is_own(command):
        return "It interrupts what is running, and nobody is here to say yes: not run."
    return "It needs root: run it yourself, narthex never does." if command.root else "It is yours to do."


def _how_it_went(command: Command, done: Done) -> str:
    if not done.worked:
        return f"It did not work: {done.answer or 'no word of why'}"
    if command.request is not None:  # the service's answer is for the journal
        return "Done."
    return f"Done: {done.answer}" if done.answer else "Done."


def _so_far(results: Sequence[Mended]) -> str:
    steps = [step for result in results for step in result.steps]
    if not steps:
        return "Nothing was changed."
    return f"Done before that: {'; '.join(steps)}."


def _end(text: str) -> str:
    """Its end; looked through for secrets before it is cut, lest a key lose the name that tells it."""
    return hide_secrets(text.strip()[-4 * _ANSWER :])[-_ANSWER:]
