"""What recorded studies would give on a card with another memory bandwidth: predicted, one table.

    python bench/other_card.py [EXPORT.json …] [--bandwidth 360]

Exports come from ``narthex journal export --all --json``; the default are those of ``bench/results``. The
cost model is fitted to each study's own trials. Models are written as headers by
``../shared/bench/synth_gguf.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from narthex.models.inspection import Inspection
from narthex.studies.other_card import predict_turn_s
from narthex.studies.records import StudyResult
from narthex.views.table import table
from planner_accuracy import ROOT, header

RESULTS = sorted((ROOT / "bench" / "results").glob("*.json"))
HERE = 3352.32e9  # bytes a second: NVML's figure for the H100 of the exports
HEAD = ("model", "setting", "measured here", "predicted there")


def rows(result: StudyResult, inspection: Inspection, name: str, there: float) -> Iterator[list[str]]:
    """One row for each setting that worked."""
    first = {record.trial.knobs: record for record in reversed(result.trials)}
    for knobs, record in first.items():
        predicted = predict_turn_s(result, inspection, knobs, here_bytes_s=HERE, there_bytes_s=there)
        turn_s = record.observation.turn_s
        if predicted is not None and turn_s is not None:
            yield [name, knobs.describe(), f"{turn_s:.2f} s", f"{predicted:.1f} s"]


def main() -> None:
    """Predict every setting of every finished study and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exports", nargs="*", type=Path, default=RESULTS)
    parser.add_argument("--bandwidth", type=float, default=360, help="GB/s of the other card")
    given = parser.parse_args()
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in given.exports:
            for study in json.loads(path.read_text())["studies"]:
                if study["result"] is None:
                    continue
                result = msgspec.convert(study["result"], StudyResult, strict=False)
                name = study["model"]["name"].removeprefix("synthetic ")
                lines += rows(result, header(name, Path(folder)), name, given.bandwidth * 1e9)
    print(table(HEAD, lines, right="llrr"))
    print(f"A turn in seconds; there: {given.bandwidth:.0f} GB/s. Predicted is not measured.")


if __name__ == "__main__":
    main()
