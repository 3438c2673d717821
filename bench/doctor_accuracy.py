"""How often the doctor names the right cause on real cases, also where the same lines came another way.

python bench/doctor_accuracy.py ../shared/corpus/cases.jsonl [--json]

A third of the cases (by the hash of their names) was kept away from whoever wrote the rules. Every case is
also diagnosed as other programs would have carried it: through the journal, Docker, Compose, Kubernetes, as
JSON lines, from Windows, mixed with the log of a healthy neighbour, and with all its texts in one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from narthex.doctor.diagnose import diagnose
from narthex.doctor.finding import Diagnosis
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.reading.text import Text
from narthex.doctor.rules import RULES, SIGNS

Texts = Mapping[str, str]
LOGS = ("ollama_log", "docker_log", "openwebui_log", "comfyui_log", "llama_server_log")
NEIGHBOUR = (
    '[GIN] 2026/03/25 - 15:30:16 | 200 |  1.327905618s |      172.18.0.3 | POST     "/api/chat"',
    'time=2026-03-25T15:30:18.031Z level=INFO source=sched.go:500 msg="loaded runners" count=1',
    '[GIN] 2026/03/25 - 15:30:21 | 200 |      72.426µs |      172.18.0.3 | GET      "/api/tags"',
)


def main() -> None:
    """Prints one row per way of carrying and part of the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases = [json.loads(line) for line in options.cases.read_text().splitlines()]
    rows = [
        {
            "carried": name,
            "part": part,
            **score([row for row in cases if part in ("all", part_of(row))], carry),
        }
        for name, carry in CARRIERS.items()
        for part in ("seen", "held out", "all")
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(
            f"{row['carried']:<14} {row['part']:<9} first right {row['first']:>3}/{row['cases']:<3} "
            f"({row['first'] / row['cases']:.0%}), among three {row['three']:>3} "
            f"({row['three'] / row['cases']:.0%}), healthy {row['quiet']}/{row['healthy']} quiet, "
            f"insufficient {row['undecided']}/{row['insufficient']} undecided or right"
        )
        if row["carried"] == "as it is" and row["part"] == "all":
            print(*row["missed"], sep="\n")


def part_of(case: Mapping[str, Any]) -> str:
    """ "held out" for a third of the cases."""
    digest = hashlib.sha256(str(case["id"]).encode()).hexdigest()
    return "held out" if int(digest, 16) % 3 == 0 else "seen"


def score(cases: list[dict[str, Any]], carry: Callable[[Texts], Texts]) -> dict[str, Any]:
    """Counts over sick cases whose evidence suffices, healthy ones, and those where it does not suffice."""
    counts = {"cases": 0, "first": 0, "three": 0, "healthy": 0, "quiet": 0, "insufficient": 0, "undecided": 0}
    missed: list[str] = []
    for case in cases:
        found = diagnosed(carry(case["evidence"]))
        causes = [finding.cause for finding in found.findings if finding.is_trouble]
        sure = [
            finding.cause for finding in found.findings if finding.is_trouble and finding.confidence >= 0.5
        ]
        if case["root_cause"] == "healthy":
            counts["healthy"] += 1
            counts["quiet"] += not causes
            right = not causes
        elif not case["evidence_sufficient"]:
            counts["insufficient"] += 1
            counts["undecided"] += sure[:1] in ([], [case["root_cause"]])
            right = sure[:1] in ([], [case["root_cause"]])
        else:
            counts["cases"] += 1
            right = causes[:1] == [case["root_cause"]]
            counts["first"] += right
            counts["three"] += case["root_cause"] in causes[:3]
        if not right:
            missed.append(
                f"  {part_of(case)}: {case['id']}: {case['root_cause']}, said {causes[:3] or 'nothing'}"
            )
    return {**counts, "missed": missed}


def diagnosed(texts: Texts) -> Diagnosis:
    """What `narthex doctor --evidence` says."""
    return diagnose(
        read_evidence(
            [Text(kind=kind, name=kind, data=text.encode()) for kind, text in texts.items()], SIGNS
        ),
        RULES,
    )


def _lines(change: Callable[[int, str], str]) -> Callable[[Texts], Texts]:
    """Every line of every log, changed."""

    def carry(texts: Texts) -> Texts:
        return {
            kind: "\n".join(change(number, line) for number, line in enumerate(text.split("\n")))
            if kind in LOGS
            else text
            for kind, text in texts.items()
        }

    return carry


def _mixed(texts: Texts) -> Texts:
    """Compose's log of the sick container and a healthy one, line by line."""
    mixed = dict(texts)
    for kind in (name for name in LOGS if name in texts):
        lines = [f"sick-1     | {line}" for line in texts[kind].split("\n")]
        others = [f"healthy-1  | {NEIGHBOUR[place % len(NEIGHBOUR)]}" for place in range(len(lines))]
        mixed[kind] = "\n".join(line for pair in zip(lines, others, strict=True) for line in pair)
    return mixed


def _json_line(number: int, line: str) -> str:
    stamp = f"2026-03-25T15:30:{number % 60:02}.000000000Z"
    return json.dumps({"log": f"{line}\n", "stream": "stderr", "time": stamp})


CARRIERS: dict[str, Callable[[Texts], Texts]] = {
    "as it is": lambda texts: texts,
    "journal": _lines(lambda number, line: f"Mar 25 15:30:{number % 60:02} box ollama[2704]: {line}"),
    "journal, zh": _lines(lambda number, line: f"3月 25 15:30:{number % 60:02} box ollama[2704]: {line}"),
    "docker -t": _lines(lambda number, line: f"2026-03-25T15:30:{number % 60:02}.123456789Z {line}"),
    "compose": _lines(lambda number, line: f"\x1b[36mollama-1  |\x1b[0m {line}"),
    "kubernetes": _lines(lambda number, line: f"[pod/ollama-0/ollama] {line}"),
    "JSON lines": _lines(_json_line),
    "Windows": lambda texts: {kind: text.replace("\n", "\r\n") for kind, text in texts.items()},
    "two streams": _mixed,
    "all in one": lambda texts: {"commands": "\n".join(texts.values())},
}

if __name__ == "__main__":
    main()
