"""The runner died of a fault in its own program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model import rivals
from narthex.doctor.rules.model.telling import UPDATE, is_event, quotes, told_as_past, version
from narthex.doctor.sign import Sign

ASSERTION = Sign(
    r"GGML_ASSERT(?:\((?P<what>.*?)\) failed|: (?P<at>\S+)|\()|GGML_ABORT(?! ?\+)|Assertion .{1,200} failed"
)
PANIC = Sign(
    r"(?:^|[^\w.])panic: (?P<what>.+)|what\(\): ?(?P<thrown>.+)|http: panic serving|nil pointer dereference"
    r"|runtime error: (?:invalid memory|index out|slice bounds|integer)"
    r"|fatal error: (?:unexpected signal|concurrent map|all goroutines)",
    words=["panic: ", "what():", "panic serving", "runtime error", "nil pointer", "fatal error"],
)
FAULT = Sign(
    r"\bSIGSEGV\b|\bSIGBUS\b|segmentation fault|signal: (?:segmentation|bus error)"
    r"|\bsegfault at [0-9a-f]+ ip\b"
    r"|exit status 0xc00000(?:05|fd)|exit status 0xc0000(?:374|094|409)|double free or corruption"
    r"|stack smashing detected|(?:running|status):? 322122(?:5477|5725|6356|6505)\b"  # Windows, in decimal
    r"|(?:exited|exit) (?:with )?code:? 139|sys=139",
    words=["sigsegv", "sigbus", "segmentation fault", "bus error", "segfault at", "0xc0000", "double free",
           "stack smashing", "322122", "code 139", "code: 139", "sys=139"],
)  # fmt: skip
ABORTED = Sign(
    r"exit status 0xe06d7363"  # Windows: a C++ exception that nobody caught
    r"|abort\(\) has been called|\bggml_abort ?\+|signal: aborted|\bSIGABRT\b|terminate called|(?:exited"
    r"|exit) (?:with )?code:? 134"
)
LOST = Sign(
    r"(?:predict|completion|embedding|running the model|POST \S*127\.0\.0\.1:\d+/\w+)\"?:?.{0,120}\bEOF\b"
    r"|(?:llama runner|llama-server|llama server) terminated\" error=\"?exit status 2\b"
    r"|has terminated: exit status (?:2|3)\b(?!:)|forcibly closed by the remote host"
    r"|health\"?: dial tcp.{0,80}refused",
    words=["eof", "exit status 2", "exit status 3", "forcibly closed", "dial tcp"],
)
UNSAID = Sign(
    r"model runner has unexpectedly stopped|runner (?:has )?crashed|process no longer running"
    r"|unknown error was encountered while running the model"
)
# A probe for GPUs runs in a runner of its own; a library that is not for this machine ends it, and no model.
_PROBE = re.compile(r"GPU discovery|bootstrap discovery|discovering available GPUs", re.IGNORECASE)
_OURS = re.compile(r"llama|ggml", re.IGNORECASE)  # the kernel tells of every program
# What explains the end of a program that itself says how it ended. A client that leaves, or a runner that
# Ollama kills, is no reason for an assertion.
_TELLING = (rivals.MEMORY, rivals.GPU, rivals.ILLEGAL, rivals.FILE, rivals.LIBRARY, rivals.SETTING)
# What a Go program says when its C part failed before: not the reason itself.
_FOLLOWS = re.compile(
    r"unable to (?:load model|create llama context)|failed to (?:load model|sample grammar)"
)
# A panic that names what its environment lacks, and Ollama's asking, with OLLAMA_DEBUG, while a model loads.
_NO_FAULT = re.compile(r"\$HOME is not defined|server not yet available")

REMEDY = Remedy(
    text="Update: such faults are mended from release to release. Until then leave out what brings it "
    "about: this "
    "input, this picture size, this option, this build of the model.",
    commands=UPDATE,
    verify="The same request is answered.",
    verify_commands=(
        Command(text="Send the same request again and look for the same line in the log", safe=True),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Its own last words, where nothing else explains its end."""
    for sign, confidence, words in (
        (ASSERTION, 0.9, "a check inside the program failed"),
        (PANIC, 0.9, "the Go part of the program panicked"),
        (FAULT, 0.85, "it touched memory that is not its own"),
        (
            LOST,
            0.6,
            "the runner was gone in the middle of a request, and said nothing of memory, GPU or a signal",
        ),
        (ABORTED, 0.45, "it was aborted; the line that says why is not here"),
        (UNSAID, 0.4, "Ollama only says that the runner stopped"),
    ):
        reasons = _TELLING if sign in (ASSERTION, PANIC, FAULT) else rivals.ALL
        hits = [hit for hit in evidence.hits(sign) if not _explained(evidence, hit, reasons)]
        if not hits:
            continue
        event = is_event(evidence, hits[-1].entry, len(hits))
        found = Finding(
            cause="runner_crash_bug",
            title="The runner died of a fault in its own program"
            if confidence > 0.5
            else "The runner died, perhaps of a fault in its own program",
            severity=Severity.WARNING if event else Severity.ERROR,
            confidence=confidence,
            evidence=quotes([*hits, *evidence.hits(LOST, UNSAID)]),
            why=_why(evidence, hits, words),
            ruled_out=_ruled_out(evidence),
            remedy=REMEDY,
        )
        yield told_as_past(evidence, hits[-1].entry, found)
        return


def _explained(evidence: Evidence, hit: Hit, reasons: Sequence[Sign]) -> bool:
    """Whether the line itself, or one of the same moment, names another cause."""
    plain = hit.entry.plain
    if (
        _FOLLOWS.search(plain)
        or _PROBE.search(plain)
        or _NO_FAULT.search(plain)
        or "attempt" in plain
        or ("segfault at" in plain and not _OURS.search(hit.entry.text))
    ):
        return True
    return rivals.found(evidence, hit.entry, *reasons) is not None


def _why(evidence: Evidence, hits: list[Hit], words: str) -> str:
    said = next(
        (hit[name] for hit in hits for name in ("what", "thrown", "at") if hit.match.groupdict().get(name)),
        "",
    )
    told = version(evidence)
    text = f"{words[0].upper()}{words[1:]}"
    if said:
        text += f": «{said[:120]}»"
    text += f"; {len(hits)} such lines" if len(hits) > 1 else ""
    return text + (f". This Ollama is {told}." if told else ".")


def _ruled_out(evidence: Evidence) -> tuple[RuledOut, ...]:
    rows = [
        RuledOut(
            cause="vram_oom_in_generation", why="No line near it speaks of memory that could not be had."
        ),
        RuledOut(
            cause="gpu_xid_app_fault", why="No line near it is an error of CUDA, ROCm or the kernel's driver."
        ),
        RuledOut(
            cause="client_timeout_generation",
            why="It is the runner that was gone, not the client: nothing says «context canceled».",
        ),
    ]
    if evidence.has_kind("dmesg"):
        rows.append(
            RuledOut(
                cause="host_oom_kill", why="The kernel log is here and tells of no process killed for memory."
            )
        )
    return tuple(rows)


RULE = Rule(
    slug="runner_crash_bug",
    title="A fault in the runner's program",
    area="model",
    meaning="An assertion, a panic or a memory fault in Ollama's runner or in llama.cpp ended the process. "
    "Clients get "
    "a 500, or a stream that breaks off.",
    signature=(
        "GGML_ASSERT(…) failed",
        "panic: runtime error: …;  http: panic serving",
        "SIGSEGV: segmentation violation",
        'post predict error="Post …/completion: EOF" with nothing else around it',
    ),
    certain="The same input brings it about again, with memory to spare, and a search for the line finds a "
    "report of it.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="vram_oom_in_generation", how="«out of memory» stands before the end."),
        LookAlike(
            cause="host_oom_kill", how="«signal: killed» or no reason at all: look into the kernel log first."
        ),
        LookAlike(
            cause="client_timeout_generation", how="«context canceled» and a round duration: the client left."
        ),
        LookAlike(cause="gpu_arch_not_in_build", how="«no kernel image», «invalid device function»."),
    ),
    signs=(ASSERTION, PANIC, FAULT, ABORTED, LOST, UNSAID, *rivals.ALL),
    explains=("embedding_failure", "owui_500_while_ollama_ok"),
    check=check,
)
