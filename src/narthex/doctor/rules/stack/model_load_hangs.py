"""A runner has been loading for minutes, and its model never comes into the list of loaded ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.units import format_duration

LONG_S = 180.0  # 20 GB come from a slow disk (150 MB/s) within this time
_VERY_LONG_S = 600.0  # Ollama gives up after 5 minutes without progress

REMEDY = Remedy(
    text="See what the runner waits for; where it does not move, start Ollama anew.",
    commands=(
        Command(text="ps -o pid,etime,stat,wchan:32,args -C llama-server,ollama", safe=True),
        Command(text="journalctl -u ollama -n 50 --no-pager", safe=True, note="docker logs --tail 50 ollama"),
        Command(
            text="sudo systemctl restart ollama",
            safe=False,
            root=True,
            note="in a container: docker restart ollama; every load and answer under way ends",
        ),
    ),
    verify="The model is listed as loaded.",
    verify_commands=(Command(text="curl -sS http://127.0.0.1:11434/api/ps", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Runners whose models are not listed, and how long they have worked."""
    for row in evidence.all_readings("ollama.loading"):
        value: dict[str, Any] = row.value or {}
        seconds, moves = float(value.get("seconds", 0.0)), bool(value.get("moves"))
        if seconds < (_VERY_LONG_S if moves else LONG_S):
            continue
        yield Finding(
            cause="model_load_hangs",
            title="A load does not come to its end",
            severity=Severity.WARNING if moves else Severity.ERROR,
            confidence=0.4 if moves else 0.7,
            evidence=(evidence.quote_reading(row),),
            why=(
                f"Process {value.get('pid')} was started {format_duration(seconds)} ago for a model that is "
                f"still not among the loaded ones, and it {'works on' if moves else 'does nothing'}."
            ),
            remedy=REMEDY,
            ruled_out=(
                RuledOut(
                    cause="model_load_timeout",
                    why="Ollama has not given up: its runner is still there",
                ),
            ),
            about=str(value.get("pid", "")),
        )


RULE = Rule(
    slug="model_load_hangs",
    title="A load hangs",
    area="stack",
    meaning=(
        "Ollama started a runner for a model, and the model does not get ready: requests for it wait, while "
        "lists and versions are still answered."
    ),
    signature=("/api/tags answers, /api/ps lacks the model, its runner has been there for minutes",),
    certain="The runner's process uses no CPU and reads nothing for a minute.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="model_load_timeout", how="Ollama gave up already, and its log says so."),
        LookAlike(cause="gpu_fell_off_bus", how="The kernel log says Xid 79, and nvidia-smi hangs as well."),
    ),
    readings=("ollama.loading",),
    check=check,
)
