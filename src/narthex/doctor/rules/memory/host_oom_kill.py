"""The kernel, or a limit of the container or unit, ended the process because main memory ran out."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import msgspec

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import host_memory, remedies
from narthex.doctor.rules.memory.amounts import size_of
from narthex.doctor.rules.model.telling import told_as_past
from narthex.doctor.sign import Sign
from narthex.doctor.story import loads
from narthex.units import GIB, KIB, format_size

KERNEL = Sign(
    r"(?P<cgroup>Memory cgroup )?out of memory(?: \([^)]*\))?: Kill(?:ed)? process (?P<pid>\d+)["
    r" ,]\(?(?P<name>[^\s),]+)"
    r"|(?<!\w)Killed process (?P<pid2>\d+) ?,? ?\((?P<name2>[^)]+)\)",
    words=["kill process", "killed process"],
)
CONSTRAINT = Sign(
    r"oom-kill:constraint=(?P<constraint>\w+).*?\btask=(?P<task>[^,]+)|(?P<by>\S+) invoked oom-killer"
    r"|killed as a result of limit of",
    words=["oom-kill:constraint", "invoked oom-killer", "killed as a result of limit"],
)
UNIT = Sign(
    r"(?P<unit>\S+\.(?:service|scope|slice)): (?:A process of this unit has been killed by the OOM killer"
    r"|Failed with result 'oom-kill')|systemd-oomd killed|due to memory"
    r" (?:pressure|used)|earlyoom.*sending SIG",
    words=["oom killer", "oom-kill", "systemd-oomd killed", "due to memory", "sending sig"],
)
CONTAINER = Sign(
    r"\"?OOMKilled\"?[:=] ?\"?true|Reason: ?OOMKilled|\bOOMKilled\b(?!\"?[:=] ?\"?false)",
    words=["oomkilled"],
)
EXIT_137 = Sign(
    r"exit(?:ed)? (?:with )?(?:code|status)[ :=]*137|Exited \(137\)|\"ExitCode\": 137|Exit Code: 137"
    r"|code=killed, status=9/KILL|exit status 137",
    words=[
        "code 137",
        "code: 137",
        "code=137",
        "status 137",
        "status: 137",
        "status=137",
        "exited (137)",
        'code": 137',
        "status=9/kill",
    ],
)
KILLED = Sign(
    r"sys=9\b|(?:has terminated|no longer running|llama-server terminated|runner terminated)\b.*signal:"
    r" killed"
    r"|(?:error|string)=\"[^\"]*signal: killed",
    words=["signal: killed", "sys=9"],
)
EMPTY = Sign(
    r"(?:runner|llama-server) process has terminated:? ?(?:%!w\(<nil>\))?\"?$",
    words=["process has terminated"],
)
SHELL = Sign(
    r"^(?:\S*: )?(?:line \d+: +)?(?:\d+ )?Killed(?: +\S.*)?$|^\[\d+\]\+? +\d* ?Killed\b", words=["killed"]
)
LIMIT = Sign(
    r"MemoryMax=(?P<unit>\d+)|memory\.max\D+(?P<cgroup>\d{6,})|\"Memory\": (?P<docker>[1-9]\d+)"
    r"|(?:--memory|-m|mem_limit:)[ =](?P<flag>\d+[kmgKMG]b?)\b",
    words=["memorymax=", "memory.max", '"memory":', "--memory", "mem_limit", "docker run"],
)
_STACK = re.compile(r"ollama|llama|python|comfy|uvicorn|open-?webui|runner|gunicorn|ggml", re.IGNORECASE)
# Ollama ends a runner by SIGKILL to unload it, and then writes this where the runner had printed «error:».
_UNLOADED = re.compile(r"msg=\"llama-server terminated\" error=\"signal: killed\"")
_AT_A_PROMPT = ("commands", "client_error", "llama_server_log", "comfyui_log", "docker_log")
_OLD_S = 86_400.0
_PROVEN = 0.8  # below, only the signal is known
_KILOBYTES = re.compile(r"anon-rss:(\d+)kB")

REMEDY = Remedy(
    text="Raise the limit of the container, virtual machine or unit; else use a smaller model or context.",
    commands=(
        Command(
            text="journalctl -k -g 'oom-kill|Out of memory|Killed process' --since -1d",
            safe=True,
            note="root may be needed to read the kernel's log",
        ),
        Command(text="docker inspect -f '{{.State.OOMKilled}} {{.HostConfig.Memory}}' CONTAINER", safe=True),
        Command(
            text="systemctl show ollama -p MemoryMax -p MemoryPeak",
            safe=True,
        ),
        *remedies.lighter(),
    ),
    verify="The same work runs, and the kernel's log gets no new line with «Killed process».",
    verify_commands=(Command(text="free -h", safe=True, argv=("free", "-h")),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """What was killed; as past where the server was started anew since and works. The kernel keeps its log
    until the next boot: on the live machine what is older than a day is only told."""
    last = max(
        evidence.hits(KERNEL, CONSTRAINT, CONTAINER, UNIT, EXIT_137, KILLED),
        key=lambda hit: (hit.entry.at or 0.0, hit.entry.line),
        default=None,
    )
    for found in _check(evidence):
        finding = told_as_past(evidence, last.entry, found) if last is not None else found
        if evidence.live and last is not None and time.time() - (last.entry.at or time.time()) > _OLD_S:
            finding = msgspec.structs.replace(finding, severity=Severity.INFO)
        yield finding


def _check(evidence: Evidence) -> Iterator[Finding]:
    """The kernel's or systemd's own words; else the way in which the process ended."""
    kernel = [hit for hit in evidence.hits(KERNEL, CONSTRAINT) if _STACK.search(_name(hit))]
    proof = [*kernel[-1:], *evidence.hits(CONTAINER)[-1:], *_units(evidence)[-1:]]
    ended = [hit for hit in evidence.hits(EXIT_137) if not _is_another_unit(hit)]
    killed = [hit for hit in evidence.hits(KILLED) if not _is_unload(evidence, hit)]
    died = next(iter([*killed[-1:], *ended[-1:]]), None)
    if proof:
        quotes = [hit.quote() for hit in proof] + ([died.quote()] if died else [])
        yield _finding(evidence, quotes, _told(kernel), 0.95)
    elif (quote := _seen(evidence)) is not None:
        yield _finding(
            evidence, [quote], "The kernel ended a process here because its memory limit was reached.", 0.9
        )
    elif died is not None:
        yield _by_signal(evidence, died)
    elif other := evidence.last(KERNEL, CONSTRAINT):
        yield _of_another(evidence, other)
    elif found := _silent(evidence):
        yield found


def _of_another(evidence: Evidence, hit: Hit) -> Finding:
    """Somebody else's process was ended, or whose is not told: no proof against this stack."""
    named = bool(_name(hit))
    why = "The kernel ran out of memory and ended " + (
        f"{_name(hit)}." if named else "a process, not told which."
    )
    found = _finding(evidence, [hit.quote()], f"{why} Nothing here says that it hit this stack.", 0.4)
    return msgspec.structs.replace(found, severity=Severity.INFO) if named else found


def _is_another_unit(hit: Hit) -> bool:
    unit = re.search(r"(\S+)\.(?:service|scope):", hit.entry.plain)
    return unit is not None and not _STACK.search(unit[1])


def _is_unload(evidence: Evidence, hit: Hit) -> bool:
    """Whether it is how Ollama ends a runner to unload it: then the next load goes well."""
    later = (load for load in loads(evidence) if load.source == hit.entry.source and load.end == "ready")
    return bool(_UNLOADED.search(hit.entry.plain)) and any(load.last.line > hit.entry.line for load in later)


def _by_signal(evidence: Evidence, died: Hit) -> Finding:
    """Signal 9 is what the kernel sends, and what somebody types; tight memory speaks for the kernel."""
    limit = _limit(evidence)
    tight = _tight(evidence)
    sure = 0.7 if KILLED.pattern.search(died.entry.plain) else 0.55  # «docker stop» ends in 137 too
    sure -= 0.25 if _UNLOADED.search(died.entry.plain) else 0.0
    sure += 0.15 if limit or tight else 0.0
    if died.entry.kind == "commands" and not _STACK.search(died.entry.plain):
        sure -= 0.25
    return _finding(
        evidence,
        [died.quote()],
        "The process got signal 9, which it can not catch. That is how the kernel ends one when memory is "
        "full; nothing in this log says that somebody else sent it.",
        sure,
    )


def _silent(evidence: Evidence) -> Finding | None:
    """No reason told, and main memory was tight: or the shell's bare «Killed»."""
    shell = [hit for hit in evidence.hits(SHELL) if hit.entry.kind in _AT_A_PROMPT]
    if shell:
        return _finding(
            evidence, [shell[-1].quote()], "The shell says «Killed»: the process got signal 9.", 0.6
        )
    empty = [
        hit
        for hit in evidence.hits(EMPTY)
        if "terminated: " not in hit.entry.plain or "%!w" in hit.entry.plain
    ]
    if not empty:
        return None
    tight = _tight(evidence)
    return _finding(
        evidence,
        [empty[-1].quote(), *tight],
        "The runner ended during the load and left no word of its own"
        + (", and main memory was tight." if tight else ".")
        + " Only the kernel's log can tell.",
        0.48 if tight else 0.35,
    )


def _told(kernel: list[Hit]) -> str:
    if not kernel:
        return "The process was ended because main memory, or its limit, ran out."
    line = kernel[-1].entry.plain
    size = _KILOBYTES.search(line)
    held = f", which held {format_size(int(size[1]) * KIB)}" if size else ""
    where = " of its control group" if "cgroup" in line.lower() else ""
    return f"The kernel ended {_name(kernel[-1])}{held}: the memory{where} was full."


def _units(evidence: Evidence) -> list[Hit]:
    return [
        hit
        for hit in evidence.hits(UNIT)
        if _STACK.search(hit["unit"] or hit.entry.plain) or "docker" in hit.entry.plain.lower()
    ]


def _seen(evidence: Evidence) -> Quote | None:
    """What collectors saw: a container that Docker marks, or the counter of a control group."""
    for row in evidence.all_readings("container"):
        if row.value and row.value.get("oom_killed"):
            return evidence.quote_reading(row)
    for row in evidence.all_readings("cgroup.oom_kills"):
        if row.value:
            return evidence.quote_reading(row)
    return None


def _limit(evidence: Evidence) -> Hit | None:
    return evidence.last(LIMIT)


def _limit_bytes(hit: Hit) -> int | None:
    text = next((value for value in hit.match.groupdict().values() if value), "")
    return size_of(text.upper().removesuffix("B") + "iB") if not text.isdecimal() else int(text)


def _tight(evidence: Evidence) -> tuple[Quote, ...]:
    """The line of free main memory, where a load wanted most of it."""
    hit = evidence.last(host_memory.SYSTEM)
    free = size_of(hit["free"]) if hit else None
    swap = size_of(hit["swap"]) or 0 if hit else 0
    if hit is None or free is None:
        return ()
    wants = max(
        (
            sum(
                size
                for part in (load.weights_bytes, load.kv_bytes, load.compute_bytes)
                for name, size in part.items()
                if name == "Host"
            )
            for load in loads(evidence)
        ),
        default=0,
    )
    return (hit.quote(),) if wants > 0.7 * (free + swap) or free + swap < 2 * GIB else ()


def _name(hit: Hit) -> str:
    groups = hit.match.groupdict()
    return str(groups.get("name") or groups.get("name2") or groups.get("task") or "")


def _finding(evidence: Evidence, quotes: list[Quote], why: str, confidence: float) -> Finding:
    limit = _limit(evidence)
    if limit is not None:
        quotes = [*quotes, limit.quote()]
        if (size := _limit_bytes(limit)) and size < 2**50:
            why += f" A limit of {format_size(size)} is set."
    return Finding(
        cause="host_oom_kill",
        title="The process was killed because main memory ran out"
        if confidence >= _PROVEN
        else "The process was killed, perhaps because main memory ran out",
        severity=Severity.ERROR,
        confidence=confidence,
        evidence=tuple(dict.fromkeys(quotes)),
        why=why,
        remedy=REMEDY,
        ruled_out=(
            RuledOut(cause="runner_crash_bug", why="A crash leaves an assertion, a panic or another signal."),
        ),
    )


RULE = Rule(
    slug="host_oom_kill",
    title="Killed for main memory",
    area="memory",
    meaning="Main memory, or the limit of the container or unit, was full, and the kernel ended the process.",
    signature=(
        "Out of memory: Killed process 1234 (llama-server)",
        'llama runner process no longer running sys=9 string="signal: killed"',
        "Failed with result 'oom-kill'",
        "exited with code 137, OOMKilled: true",
    ),
    certain="The kernel's log names the process. Without it, signal 9 could also be somebody's own kill.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="runner_crash_bug", how="It ends with an assertion, a panic or SIGSEGV, not with signal 9."
        ),
        LookAlike(cause="host_ram_insufficient", how="There the program asks, is refused, and says so."),
        LookAlike(
            cause="model_load_timeout", how="There Ollama itself ends the runner, and says after how long."
        ),
    ),
    signs=(KERNEL, CONSTRAINT, UNIT, CONTAINER, EXIT_137, KILLED, EMPTY, SHELL, LIMIT, *host_memory.ALL),
    check=check,
    explains=("runner_crash_bug", "ollama_unreachable", "owui_cannot_reach_ollama"),
)
