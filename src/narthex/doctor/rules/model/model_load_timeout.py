"""Ollama itself gave up waiting for a load."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.telling import load_of, loaded_later, near, quotes, short, spoken
from narthex.doctor.sign import Sign
from narthex.doctor.signs import ollama
from narthex.doctor.story import requests, starts
from narthex.engines.ollama.durations import go_seconds

GAVE_UP = Sign(
    r"timed out waiting for (?:llama runner|llama-server|llama server|server) to start"
    r"(?!.*context (?:canceled|deadline))(?P<rest>.*)|llama runner did not start within"
)
_PROGRESS = re.compile(r"progress (\d+\.\d+)")

REMEDY = Remedy(
    text="Let Ollama wait longer, or make the load shorter: a faster disk, a smaller model, a local copy "
    "instead of "
    "a network drive.",
    commands=(
        Command(
            text="Set OLLAMA_LOAD_TIMEOUT=30m for the service and restart it",
            safe=False,
            note="`systemctl edit ollama`, or -e OLLAMA_LOAD_TIMEOUT=30m for a container",
        ),
        Command(
            text="dd if=BLOB of=/dev/null bs=16M status=progress",
            safe=True,
            note="how fast the disk reads the model",
        ),
    ),
    verify="The load ends with «started in N seconds».",
    verify_commands=(Command(text='ollama run MODEL ""', safe=True, note="loads it, and waits"),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """«timed out waiting …», and no client that left."""
    hits = [hit for hit in evidence.hits(GAVE_UP) if "discovery" not in hit.entry.plain.lower()]
    hits = [hit for hit in hits if not near(evidence, evidence.hits(ollama.CLIENT_LEFT_LOAD), hit.entry)]
    if not hits:
        return
    last = hits[-1]
    load = load_of(evidence, last.entry)
    over = loaded_later(evidence, last.entry, load.model if load else "")
    limit = _limit(evidence)
    took = _took(evidence, last)
    progress = _PROGRESS.search(last.entry.plain)
    yield Finding(
        cause="model_load_timeout",
        title="Ollama gave up waiting for the model to load",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=(0.95 if progress or last["rest"].strip().startswith("- ") or took else 0.8)
        - (0.3 if over else 0),
        evidence=quotes(hits),
        why=_why(progress[1] if progress else "", took, limit, short(load.model) if load else ""),
        ruled_out=(
            RuledOut(
                cause="client_timeout_aborts_load",
                why="The line does not say «context canceled»: no client left, the server's own limit came "
                "first.",
            ),
        ),
        remedy=REMEDY,
        about=short(load.model) if load else "",
    )


def _limit(evidence: Evidence) -> float | None:
    """OLLAMA_LOAD_TIMEOUT of the last start, in seconds; None where the log does not tell."""
    told = next(
        (
            start.env["OLLAMA_LOAD_TIMEOUT"]
            for start in reversed(starts(evidence))
            if "OLLAMA_LOAD_TIMEOUT" in start.env
        ),
        "",
    )
    return go_seconds(told)


def _took(evidence: Evidence, hit: Hit) -> float | None:
    """How long the client waited until then."""
    rows = [one for one in requests(evidence) if one.status == 500 and one.works]
    found = near(evidence, (Hit(entry=one.entry, match=None) for one in rows), hit.entry)
    places = {row.entry.place for row in found}
    return next((one.seconds for one in rows if one.entry.place in places), None)


def _why(progress: str, took: float | None, limit: float | None, model: str) -> str:
    text = f"The load of {model or 'the model'} did not end within Ollama's own limit" + (
        f" ({spoken(limit)})" if limit else ""
    )
    if took:
        text += f"; the request was answered with 500 after {spoken(took)}"
    if progress:
        text += f". {float(progress):.0%} of the weights were read by then"
        if float(progress) == 0.0:
            text += ": either the disk is very slow, or the GPU's driver hangs"
    return text + "."


RULE = Rule(
    slug="model_load_timeout",
    title="The load took longer than Ollama waits",
    area="model",
    meaning="Ollama ends a load that makes no progress within OLLAMA_LOAD_TIMEOUT (five minutes by "
    "default). From 0.30.1 "
    "every line of the runner starts that time anew, so then it means that the runner was silent.",
    signature=(
        "timed out waiting for llama runner to start - progress 0.42 -",
        "timed out waiting for llama-server to start - ",
    ),
    certain="No «context canceled» stands in the line, and the request took as long as OLLAMA_LOAD_TIMEOUT.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="client_timeout_aborts_load",
            how="The line ends with «context canceled»; the status is 499.",
        ),
        LookAlike(
            cause="gpu_discovery_timeout",
            how="It is the search for GPUs that timed out, before any model is loaded.",
        ),
    ),
    signs=(GAVE_UP,),
    explains=("owui_500_while_ollama_ok",),
    check=check,
)
