"""The systemd unit is wrong: systemd can't start the program, or gives it words that it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes, started_later
from narthex.doctor.rules.service.unit_lines import (
    BAD_WORD,
    DETAIL,
    EXITED,
    IGNORED,
    NO_HOME,
    OTHERS,
    OURS,
    RESTARTS,
    SAID,
    STATUS,
    STEP,
    STEPS,
    TOO_QUICK,
    UNIT_FILE,
    is_ours,
)

_SERVICE_TALK = r"systemctl|journalctl|ExecStart=|systemd|docker (?:compose|logs)"

_FIXES = {
    "EXEC": "Write the real path into ExecStart= (which ollama), or remove the unit that a hand installation "
    "left in /etc/systemd/system: it hides the packaged one.",
    "CHDIR": "Make the folder and give it to the service's user, or correct WorkingDirectory=.",
    "USER": "Make the user, or correct User=.",
    "GROUP": "Make the group, or correct Group=.",
    "NAMESPACE": "Make the folders that the unit names, or take those lines out.",
    "STATE_DIRECTORY": "Give /var/lib/ollama to the service's user, or take StateDirectory= out; a link or "
    "file of that name has to go.",
}
REMEDY = Remedy(
    text="Read the unit as systemd sees it, correct the line that fails, and take out what is stale.",
    commands=(
        Command(text="systemctl cat ollama", safe=True, note="which files it is made of"),
        Command(text="systemd-analyze verify ollama.service", safe=True),
        Command(text="which -a ollama", safe=True),
        Command(text="sudo systemctl edit --full ollama", safe=False, root=True, note="correct the line"),
        Command(
            text="sudo systemctl daemon-reload && sudo systemctl reset-failed ollama && sudo systemctl "
            "restart ollama",
            safe=False,
            root=True,
            note="on a host with GPU containers, daemon-reload can take their GPU away: restart them after "
            "it",
        ),
    ),
    verify="The unit is active (running), and its restart counter stays.",
    verify_commands=(
        Command(text="systemctl show ollama -p ActiveState,SubState,NRestarts,ExecMainStatus", safe=True),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """systemd's own words first, then words that the program refuses, then a mere loop of restarts."""
    hits = [hit for hit in evidence.hits(STATUS, STEP, DETAIL, UNIT_FILE) if is_ours(hit)]
    words = _bad_words(evidence)
    if hits:
        yield _of_unit(evidence, hits)
    elif words:
        yield _of_words(evidence, words)
    elif loop := _unexplained_loop(evidence):
        yield loop
    elif ignored := [hit for hit in evidence.hits(IGNORED) if OURS.search(hit["file"])]:
        yield _of_ignored(ignored)


def _of_unit(evidence: Evidence, hits: list[Hit]) -> Finding:
    steps = [hit for hit in hits if hit.match.groupdict().get("step")]
    step = steps[0]["step"] if steps else ""
    code = next((hit["code"] for hit in steps if hit.match.groupdict().get("code")), "")
    what = next((hit["what"] for hit in steps if hit.match.groupdict().get("what")), "")
    unit = next((found for hit in hits if (found := hit.match.groupdict().get("unit"))), "ollama.service")
    over = started_later(evidence, hits[-1].entry)
    restarts = evidence.last(RESTARTS)
    reason = STEPS.get(step, "") or (f"its step {step} failed" if step else "its unit file is not usable")
    why = f"systemd could not start {unit}: {reason}"
    why += f" ({what})" if what else ""
    why += f"; exit status {code}/{step} is systemd's own, the program never ran" if code else ""
    why += f". It has tried {restarts['count']} times" if restarts else ""
    why += f". A later start worked (line {over.entry.line})" if over else ""
    fix = _FIXES.get(step, REMEDY.text)
    return Finding(
        cause="service_unit_misconfig",
        title=f"The unit {unit} is wrong{f': {step}' if step else ''}",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.95 if step else 0.85,
        evidence=quotes(*hits[:4], restarts),
        why=why + ".",
        ruled_out=(
            RuledOut(
                cause="models_dir_permission",
                why="the program never ran, so it could not be refused anything",
            ),
        )
        if step
        else (),
        remedy=_named(Remedy(text=fix, commands=REMEDY.commands, verify=REMEDY.verify,
                             verify_commands=REMEDY.verify_commands), unit),
        about=unit,
    )  # fmt: skip


def _named(remedy: Remedy, unit: str) -> Remedy:
    """The remedy with this unit's name in its commands."""
    name = unit.removesuffix(".service")
    if name == "ollama":
        return remedy

    def named(commands: tuple[Command, ...]) -> tuple[Command, ...]:
        return tuple(
            msgspec.structs.replace(one, text=re.sub(r"\bollama(\.service)?\b", name, one.text))
            for one in commands
        )

    return msgspec.structs.replace(
        remedy, commands=named(remedy.commands), verify_commands=named(remedy.verify_commands)
    )


def _bad_words(evidence: Evidence) -> list[Hit]:
    """Words that the program does not know, where a service gave them, not a person at a terminal."""
    hits = evidence.hits(BAD_WORD, NO_HOME)
    if evidence.has(RESTARTS, TOO_QUICK, EXITED) or evidence.search(_SERVICE_TALK, "commands"):
        return hits
    return [hit for hit in hits if hit.entry.stream or hit.entry.kind not in ("commands", "client_error")]


def _of_words(evidence: Evidence, hits: list[Hit]) -> Finding:
    home = all(NO_HOME.pattern.search(hit.entry.plain) for hit in hits)
    over = started_later(evidence, hits[-1].entry)
    around = evidence.last(RESTARTS, TOO_QUICK, EXITED)
    said = (
        "the program asks for HOME, and the unit sets none"
        if home
        else f"the program does not know what the unit gives it: {hits[0].entry.plain}"
    )
    fix = (
        'Add Environment="HOME=/usr/share/ollama" (the home of its user) to the unit.'
        if home
        else "Correct ExecStart=: a server is started by «ollama serve» and has no options of its own; its "
        "settings are Environment= lines. A newer or older version may have dropped the word."
    )
    return Finding(
        cause="service_unit_misconfig",
        title="The service starts the program with words that it refuses",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.9 if around else 0.75,
        evidence=quotes(*hits[:2], around),
        why=said[0].upper() + said[1:] + (" A later start worked." if over else ""),
        remedy=Remedy(
            text=fix,
            commands=REMEDY.commands,
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
    )


def _unexplained_loop(evidence: Evidence) -> Finding | None:
    """systemd starts it again and again, and nothing here says why, or nothing that a rule knows."""
    loop = [hit for hit in evidence.hits(RESTARTS, TOO_QUICK) if is_ours(hit)]
    if not loop or evidence.has(OTHERS) or started_later(evidence, loop[-1].entry):
        return None
    exited, said = evidence.last(EXITED), evidence.last(SAID)
    times = max((int(hit["count"]) for hit in loop if hit.match.groupdict().get("count")), default=0)
    if times == 1 and exited is None:
        return None  # one restart is no loop
    status = f" with status {_status(exited.entry)}" if exited and _status(exited.entry) else ""
    reason = "; the lines that would say why are not here"
    if said:
        reason = f"; its last words were «{said['what'][:120]}»"
    return Finding(
        cause="service_unit_misconfig",
        title="The service ends again and again",
        severity=Severity.ERROR,
        confidence=0.4,
        evidence=quotes(loop[-1], said, exited),
        why=f"systemd has started it {times or 'many'} times and it ended each time{status}{reason}. A "
        "wrong unit is one of the reasons.",
        remedy=Remedy(
            text="Read what the program said before it ended; the unit is judged after that.",
            commands=(
                Command(text="journalctl -u ollama -n 50 --no-pager", safe=True),
                Command(text="systemctl status ollama --no-pager -l", safe=True),
            ),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
    )


def _status(entry: Entry) -> str:
    found = re.search(r"status=(\d+(?:/\w+)?)", entry.plain)
    return found[1] if found else ""


def _of_ignored(hits: list[Hit]) -> Finding:
    return Finding(
        cause="service_unit_misconfig",
        title="systemd ignores a line of the unit",
        severity=Severity.WARNING,
        confidence=0.85,
        evidence=quotes(*hits[:3]),
        why=f"systemd could not read line {hits[0]['line']} of {hits[0]['file']} and goes on without it: "
        "that setting has no effect.",
        remedy=Remedy(
            text="Settings of Ollama are Environment= lines in the section [Service], one «NAME=value» in "
            "quotes.",
            commands=REMEDY.commands,
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        about=hits[0]["file"],
    )


RULE = Rule(
    slug="service_unit_misconfig",
    title="The systemd unit is wrong",
    area="service",
    meaning="systemd can't start the service as its unit file says: the program, a folder or the user that "
    "the unit names is not there, or the program does not know the words that it is given.",
    signature=(
        "ollama.service: Failed at step EXEC spawning /usr/local/bin/ollama: No such file or directory",
        "Main process exited, code=exited, status=203/EXEC (200/CHDIR, 217/USER, 226/NAMESPACE, "
        "238/STATE_DIRECTORY)",
        'Error: unknown command "server" for "ollama"   Error: unknown flag: --host',
        "Scheduled restart job, restart counter is at 20.   Start request repeated too quickly.",
    ),
    certain="Exit statuses from 200 on come from systemd itself. A status of 1 or 2 comes from the "
    "program: then its own last line says what is wrong, and the unit is often fine.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="models_dir_permission",
            how="The counter climbs too, with status=1/FAILURE, and the program says «permission denied».",
        ),
        LookAlike(
            cause="port_in_use", how="The counter climbs too, and the program says «address already in use»."
        ),
        LookAlike(cause="host_oom_kill", how="The unit ends with «killed» or «oom-kill», not with a status."),
    ),
    signs=(
        STATUS,
        STEP,
        DETAIL,
        UNIT_FILE,
        IGNORED,
        BAD_WORD,
        NO_HOME,
        RESTARTS,
        TOO_QUICK,
        EXITED,
        SAID,
        OTHERS,
    ),
    explains=("ollama_unreachable", "owui_cannot_reach_ollama", "comfyui_unreachable"),
    check=check,
)
