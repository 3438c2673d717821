"""After a step: is the finding gone?"""

from __future__ import annotations

from collections.abc import Callable

from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding
from narthex.doctor.mending import Check, perform
from narthex.doctor.rule import Rule

HOST = "host"  # the source of readings: what is so now
Look = Callable[[float], Evidence]
"""Collects again: readings of now, and what logs hold since a moment (seconds since 1970)."""


class Rechecker:
    """Asks the finding's own rule again, over fresh evidence."""

    def __init__(self, look: Look, rules: dict[str, Rule]) -> None:
        self._look, self._rules = look, rules

    def __call__(self, finding: Finding, since: float) -> Check:
        """What is seen now.

        A finding from readings is gone when they no longer show it. One from log lines stays silent until
        the same work is done again; there its remedy's own check has to prove it.
        """
        diagnosis = diagnose(self._look(since), [self._rules[finding.cause]])
        for again in diagnosis.findings:
            if (again.cause, again.about) == (finding.cause, finding.about):
                return Check(gone=False, text=f"It is still there: {again.why}")
        for gap in diagnosis.skipped:
            if gap.what == finding.cause:
                return Check(gone=None, text=f"Whether it is gone can't be told: {gap.why}")
        proofs = [command for command in finding.remedy.verify_commands if _may_run(command)]
        for command in proofs:
            done = perform(command)
            if not done.worked:
                return Check(gone=False, text=f"The check failed: {command.text}: {done.answer}")
        if proofs:
            return Check(gone=True, text=f"It is gone: {'; '.join(row.text for row in proofs)} worked.")
        if all(quote.source == HOST for quote in finding.evidence):
            return Check(gone=True, text="It is gone: this machine no longer shows it.")
        hint = finding.remedy.verify or "do the same again, and look at the log"
        return Check(gone=None, text=f"No new line shows it. To be sure: {hint}")


def _may_run(command: Command) -> bool:
    return command.safe and not command.root and bool(command.argv or command.request)
