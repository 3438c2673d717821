"""A download came whole and is not what it should be."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.rules.service.pulling import ended_well
from narthex.doctor.sign import Sign

MISMATCH = Sign(
    r"digest mismatch(?:, file must be downloaded again)?(?:[:,] ?(?:want|expected) (?P<want>\S+?),? "
    r"got (?P<got>sha256:\w+|\w+))?",
    words=["digest mismatch"],
)
EMPTY = "e3b0c44298fc1c14"  # SHA-256 of nothing begins so
REMEDY = Remedy(
    text="Pull again. Where it fails again, something on the way or in the machine changes the bytes: try "
    "without proxy and virus scanner, then another disk, then a test of the memory.",
    commands=(
        Command(text="ollama pull MODEL", safe=True),
        Command(text="env | grep -i proxy; systemctl show ollama -p Environment", safe=True),
        Command(
            text="sudo dmesg | grep -iE 'I/O error|ext4|nvme|machine check|EDAC'",
            safe=True,
            root=True,
            note="a disk or memory that fails",
        ),
    ),
    verify="The pull says «verifying sha256 digest» and then «success».",
    verify_commands=(Command(text="ollama pull MODEL", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The words are Ollama's own; an empty file has a digest that is known."""
    hits = evidence.hits(MISMATCH)
    if not hits:
        return
    count = evidence.count(MISMATCH)
    # the second digest can stand on a line of its own
    lines = [entry.plain for hit in hits for entry in evidence.around(hit.entry, before=0, after=2)]
    empty = any(EMPTY in line for line in lines)
    over = ended_well(evidence, hits[-1].entry)
    words = "The file that came has another SHA-256 than the registry says"
    words += "; what came is the digest of an empty file: nothing was written" if empty else ""
    words += f". It was so {count} times" if count > 1 else ""
    words += f". A later pull ended well (line {over.line}), so this is over" if over else ""
    yield Finding(
        cause="pull_digest_mismatch",
        title="A downloaded file fails its check",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.95,
        evidence=quotes(*hits, most=2),
        why=words + ".",
        ruled_out=(
            RuledOut(cause="pull_interrupted", why="the download came to its end; its content is wrong"),
        ),
        remedy=REMEDY,
    )


RULE = Rule(
    slug="pull_digest_mismatch",
    title="A downloaded file fails its check",
    area="service",
    meaning="After the download Ollama computes the file's SHA-256 and gets another one than the registry "
    "names. It throws the file away.",
    signature=(
        "Error: digest mismatch, file must be downloaded again: want sha256:…, got sha256:…",
        "got sha256:e3b0c44298fc1c14…: an empty file",
    ),
    certain="Twice the same wrong digest: something on the way answers with something else. Each time "
    "another one: disk or memory.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="gguf_invalid_or_corrupt",
            how="There a file that passed, or came another way, can't be read.",
        ),
        LookAlike(cause="disk_full", how="A full disk leaves empty files, and says so."),
    ),
    signs=(MISMATCH,),
    explains=("gguf_invalid_or_corrupt",),
    check=check,
)
