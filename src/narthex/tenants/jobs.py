"""``Jobs``: a tenant's jobs, one after the other, in a thread of their own, until the context is left."""

from __future__ import annotations

import threading
from collections.abc import Callable

from narthex.errors import TenantError
from narthex.tenants._base import Job, JobEnd, JobsReport
from narthex.units import sentence

POLL_S = 0.25
ATTEMPTS = 3  # failures in a row after which no more jobs are begun
_WORDS = 10  # different ones that are kept


class Jobs:
    """Entered once the first job really runs. ``begin`` starts one and may raise TenantError.

    Entering raises TenantError where no job ever ran; one that failed at its work is in the report.

    Leaving it lets the running job leave (:meth:`Job.leave`) and begins no other. After Ctrl-C it does not
    wait for the end of a job.
    """

    def __init__(self, name: str, begin: Callable[[], Job]) -> None:
        self._name = name
        self._begin = begin
        self._stop = threading.Event()
        self._settled = threading.Event()  # the first job runs, or there will be none
        self._lock = threading.Lock()
        self._done = self._failed = self._in_a_row = 0
        self._words: list[str] = []
        self._ended = ""
        self._hurry = False
        self._ran = False  # a job of its was at work
        self._error: TenantError | None = None
        self._thread = threading.Thread(target=self._run, name=f"jobs of {name}", daemon=True)

    def __enter__(self) -> Jobs:
        self._thread.start()
        try:
            while not self._settled.wait(POLL_S):
                pass
        except KeyboardInterrupt:
            self._leave(hurry=True)
            raise
        if self._ended and not self._ran:
            self._leave(hurry=False)
            raise self._error or TenantError(
                sentence(f"The job of «{self._name}» fails: {self._ended}"),
                hint="Make it work by itself first, then run the same command again.",
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._leave(hurry=kind is KeyboardInterrupt)

    def report(self) -> JobsReport:
        """So far."""
        with self._lock:
            return JobsReport(
                done=self._done, failed=self._failed, words=tuple(self._words), ended=self._ended
            )

    def _leave(self, hurry: bool) -> None:
        self._hurry = hurry
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self._ended:
                self._one()
        except Exception as error:  # whatever it is, the soak must hear that no job runs
            self._end(f"{type(error).__name__}: {error}")
        finally:
            self._settled.set()

    def _one(self) -> None:
        try:
            job = self._begin()
        except TenantError as error:
            self._error = self._error or error
            self._count(JobEnd(words=error.message.rstrip("."), lasting=True, ran=False))
            return
        try:
            end = self._watch(job)
        finally:
            job.leave(wait=not self._hurry)
        if end is not None:
            self._count(end)

    def _watch(self, job: Job) -> JobEnd | None:
        """Until it ends; None where it was left."""
        while True:
            end = job.poll()
            if end is not None:
                return end
            if job.begun():
                self._ran = True
                self._settled.set()
            if self._stop.wait(POLL_S):
                return None

    def _count(self, end: JobEnd) -> None:
        self._ran = self._ran or end.ran
        with self._lock:
            if not end.words:
                self._done += 1
                self._in_a_row = 0
            else:
                self._failed += 1
                self._in_a_row += 1
                if end.words not in self._words[:_WORDS]:
                    self._words.append(end.words)
        if not end.words:
            self._settled.set()
        elif end.lasting or self._in_a_row >= ATTEMPTS:
            self._end(end.words)
        else:
            self._stop.wait(POLL_S)

    def _end(self, words: str) -> None:
        with self._lock:
            self._ended = words
