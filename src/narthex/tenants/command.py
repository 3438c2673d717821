"""A tenant whose job is a command: narthex starts it, and may stop it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager

from narthex import paths
from narthex.engines._base import Watch
from narthex.engines.child import CannotStart, Child
from narthex.errors import TenantError
from narthex.host.gpu import cards_before
from narthex.host.processes import family
from narthex.tenants._base import JobEnd, Peak, Work
from narthex.tenants.jobs import POLL_S, Jobs
from narthex.tenants.vram import VramWatch, held_now, on_cards
from narthex.units import sentence


class CommandTenant:
    """``job`` does one job and ends with code 0. ``process`` names what holds the VRAM, where that is not the
    job or a child of it, as with a server that the job only talks to."""

    def __init__(self, name: str, job: Sequence[str], process: str | None = None) -> None:
        self.name = name
        self._command = tuple(job)
        self._process = process

    def describe(self) -> str:
        """The command."""
        return f"{self.name}: {shlex.join(self._command)}"

    def must_be_ready(self) -> None:
        """Its program is there."""
        if shutil.which(self._command[0]) is None:
            raise self._unstartable(f"there is no program «{self._command[0]}»")

    def held_bytes(self) -> int | None:
        """By processes of its name; what its job will hold is not there yet."""
        return held_now(self._named())

    def measure(self, watch: Watch) -> Peak:
        """Run the job once. Raises TenantError where it fails."""
        before = cards_before()
        with self._begin() as job, VramWatch(lambda: family(job.pid) | self._named(), before) as vram:
            while (end := job.poll()) is None:
                watch(f"one job of «{self.name}»: at work", None)
                job.wait(POLL_S)
        if end.words:
            raise TenantError(
                sentence(f"The job of «{self.name}» fails: {end.words}"),
                hint=f"Run it by itself: {shlex.join(self._command)}",
            )
        source = "NVML, by process" if vram.peak_bytes is not None else ""
        return Peak(bytes=vram.peak_bytes, source=source, jobs=1, gaps=vram.gaps())

    def job(self) -> AbstractContextManager[Work]:
        """The command again and again."""
        return Jobs(self.name, self._begin)

    def _begin(self) -> CommandJob:
        log = paths.state_dir() / "tenants" / f"{_plain(self.name)}.log"
        try:
            return CommandJob(Child(self._command, env=None, log=log))
        except CannotStart as error:
            raise self._unstartable(str(error)) from error

    def _unstartable(self, why: str) -> TenantError:
        return TenantError(
            sentence(f"The job of «{self.name}» can't be started: {why}"),
            hint=f"Check job = … in [beside.{self.name}] of narthex.toml.",
        )

    def _named(self) -> frozenset[int]:
        return on_cards(named=self._process) if self._process else frozenset()


class CommandJob:
    """One run of the command. As a context manager it is ended on leaving."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.pid = child.pid

    def begun(self) -> bool:
        """It has been started, so it runs."""
        return True

    def poll(self) -> JobEnd | None:
        """By the exit code; the last line it said tells more."""
        if self._child.alive():
            return None
        if not self._child.exit_code:
            return JobEnd()
        code = self._child.exit_code or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        said = next((line.strip() for line in reversed(self._child.output.tail(20)) if line.strip()), "")
        return JobEnd(words=f"{how}: {said}" if said else how)

    def wait(self, seconds: float) -> None:
        """Until it ended or the time is up."""
        self._child.wait(seconds)

    def leave(self, wait: bool = True) -> None:
        """End it: narthex started it. ``wait`` gives it time to end well."""
        self._child.end() if wait else self._child.end(gentle_s=0.0)

    def __enter__(self) -> CommandJob:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()


def _plain(name: str) -> str:
    """A file name without surprises."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name) or "tenant"
