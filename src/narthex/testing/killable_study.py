"""A study on a modelled machine in a process of its own, to be killed: ``python -m … JOURNAL PAUSE_S``.

It ends with exit code 0 when the study has an end, and prints the study's id.
"""

from __future__ import annotations

import sys
from pathlib import Path

from narthex.journal.journal import Journal
from narthex.studies.records import StudyResult
from narthex.testing.modelled_runner import ModelledRunner
from narthex.testing.study_builders import machine, question, study
from narthex.units import GIB


def run(journal: Path, pause_s: float) -> StudyResult:
    """The study: on a card that is too small for all layers."""
    tight = machine(gpu_free_bytes=7 * GIB)
    with Journal.open(journal) as opened:
        return study(question(), tight, runner=ModelledRunner(tight, pause_s), journal=opened)


if __name__ == "__main__":
    sys.stdout.write(run(Path(sys.argv[1]), float(sys.argv[2])).study + "\n")
