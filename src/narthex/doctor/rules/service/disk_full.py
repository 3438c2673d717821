"""No room: a pull, a model or a database can't be written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.rules.service.pulling import ended_well
from narthex.doctor.sign import Sign
from narthex.units import format_size

FULL = Sign(
    r"no space left on device|not enough space on the disk|disk quota exceeded|database or disk is full"
    r"|not enough (?:free )?disk space|insufficient disk space|\bENOSPC\b|\[Errno 28\]",
    words=[
        "no space left",
        "space on the disk",
        "quota exceeded",
        "disk is full",
        "disk space",
        "enospc",
        "errno 28",
    ],
)
# tables of other things that are called full: kernel limits, shared memory
_OTHER = re.compile(
    r"inotify|file watcher|/dev/shm|torch_\d+_|special execution directory|IPC|semget|shmget", re.IGNORECASE
)
PATH = re.compile(r"(?P<path>(?:/|[A-Za-z]:\\)[^\s:\"']+)(?:: |\"|'|$)")
_SIZE = r"[\d.]+[KMGTP]?i?B?"
DF = re.compile(
    rf"^(?P<device>\S+) (?P<size>{_SIZE}) (?P<used>{_SIZE}) (?P<free>{_SIZE}) "
    r"(?P<percent>\d+)% (?P<mount>/\S*)$"
)
_NO_DISK = re.compile(
    r"^(?:/dev/loop|tmpfs|devtmpfs|squashfs|efivarfs|udev|none|overlay\b)|/snap/", re.IGNORECASE
)
PROGRESS = re.compile(
    r"pulling (?P<blob>[0-9a-f]{12}).*?(?P<done>[\d.]+) ?(?P<done_unit>[KMGT]?B) ?/ ?"
    r"(?P<all>[\d.]+) ?(?P<unit>[KMGT]?B)"
)
_UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}

NEARLY_BYTES = 5 << 30  # less than a usual model
FULL_BYTES = 200 << 20
FULL_PERCENT = 98


def check(evidence: Evidence) -> Iterator[Finding]:
    """The system's own words; a disk that is nearly full, on this machine, or by df."""
    hits = [hit for hit in evidence.hits(FULL) if not _OTHER.search(hit.entry.plain)]
    if hits:
        yield _of_words(evidence, hits)
        return
    yield from _of_readings(evidence)
    if not evidence.all_readings("disk"):
        yield from _of_table(evidence)


def _of_words(evidence: Evidence, hits: Sequence[Hit]) -> Finding:
    path = next((found["path"] for hit in hits if (found := PATH.search(hit.entry.plain))), "")
    rows = _rows(evidence, path)
    missing = _missing(evidence)
    over = ended_well(evidence, hits[-1].entry)
    words = f"The system answered that there is no room{f' for {path}' if path else ''}"
    if missing:
        words += f"; the download still lacked {missing}"
    if path.endswith("-partial") or "-partial" in path:
        words += ". Ollama takes the whole size of a file up front, so the disk is full long before 100 %"
    if rows and (found := DF.match(rows[0].plain)):
        words += f". {found['mount']} has {found['free']} free of {found['size']}"
    if over:
        words += f". A later pull ended well (line {over.line}), so this is over"
    return Finding(
        cause="disk_full",
        title="No room is left on the disk",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.95,
        evidence=(*quotes(*hits, most=2), *quotes(*rows, most=1)),
        why=words + ".",
        ruled_out=(
            RuledOut(
                cause="models_dir_permission", why="the system refuses for the room, not for the rights"
            ),
            RuledOut(cause="pull_interrupted", why="the line to the registry is fine: the write failed"),
        ),
        remedy=_remedy(path, hits),
        about=path,
    )


def _of_readings(evidence: Evidence) -> Iterator[Finding]:
    tight: list[tuple[int, Quote, str, str]] = []
    for row in evidence.all_readings("disk"):
        if not isinstance(row.value, dict) or (free := _free(row.value)) is None or free >= NEARLY_BYTES:
            continue
        if row.value.get("read_only"):  # nothing is meant to be written there
            continue
        what = str(row.value.get("what") or row.about)
        tight.append((free, evidence.quote_reading(row), row.about, what))
    if not tight:
        return
    free, _, path, what = min(tight)
    full = free < FULL_BYTES
    yield Finding(
        cause="disk_full",
        title=f"The disk of {what} is {'full' if full else 'nearly full'}",
        severity=Severity.ERROR if full else Severity.WARNING,
        confidence=0.9 if full else 0.8,
        evidence=tuple(quote for _, quote, _, _ in sorted(tight))[:3],
        why=f"{format_size(free)} are free at {path}: "
        + ("nothing more can be written there." if full else "less than a usual model needs."),
        remedy=_remedy(path, ()),
        about=path,
    )


def _free(value: Mapping[str, Any]) -> int | None:
    """Free bytes; 0 where no file can be made any more because the file system has no inodes left."""
    if value.get("inodes_total") and value.get("inodes_free") == 0:
        return 0
    free = value.get("free_bytes")
    return int(free) if free is not None else None


def _of_table(evidence: Evidence) -> Iterator[Finding]:
    """df alone: a full disk that matters, without any failure told."""
    for entry in evidence.lines("commands"):
        found = DF.match(entry.plain)
        if not found or int(found["percent"]) < FULL_PERCENT or _NO_DISK.search(entry.plain):
            continue
        if not re.match(r"/$|/(?:var|usr|home|root|data|mnt|srv|opt|models)", found["mount"]):
            continue
        yield Finding(
            cause="disk_full",
            title=f"{found['mount']} is full to {found['percent']} %",
            severity=Severity.WARNING,
            confidence=0.6,
            evidence=(entry.quote(),),
            why=f"{found['free']} are free of {found['size']}; no failure because of it is told here.",
            remedy=_remedy(found["mount"], ()),
            about=found["mount"],
        )
        return


def _rows(evidence: Evidence, path: str) -> list[Entry]:
    """df's row of the file system that holds the path: the longest mount point above it."""
    rows = [
        (found["mount"], entry) for entry in evidence.lines("commands") if (found := DF.match(entry.plain))
    ]
    above = [row for row in rows if (path or "/").startswith(row[0].rstrip("/") + "/") or row[0] == "/"]
    if not above:
        return []
    return [max(above, key=lambda row: len(row[0]))[1]]


def _missing(evidence: Evidence) -> str:
    """What the last progress line says is still to come: «31 GB of 79 GB»; "" where none is there."""
    for entry in reversed(evidence.lines("commands", "client_error", "docker_log")):
        if found := PROGRESS.search(entry.plain):
            whole = float(found["all"]) * _UNITS[found["unit"]]
            done = float(found["done"]) * _UNITS[found["done_unit"]]
            return f"{(whole - done) / 1e9:.1f} GB of {whole / 1e9:.1f} GB"
    return ""


def _remedy(path: str, hits: Sequence[Hit]) -> Remedy:
    boxed = path.startswith("/root/.ollama") or any(hit.entry.kind == "docker_log" for hit in hits)
    folder = re.split(r"/(?:blobs|manifests)(?:/|$)", path)[0] or "/usr/share/ollama/.ollama/models"
    if path.startswith("/tmp/"):  # noqa: S108 (read, not written)
        return msgspec.structs.replace(
            REMEDY,
            text="The temporary folder is full (often a small tmpfs). Give Ollama another one, or room "
            "there.",
            commands=(
                Command(text="df -h /tmp", safe=True),
                Command(
                    text='sudo systemctl edit ollama   # [Service]  Environment="TMPDIR=/var/tmp"',
                    safe=False,
                    root=True,
                ),
            ),
        )
    commands = [
        Command(text=f"df -h {folder}", safe=True)
        if not boxed
        else Command(text="docker system df", safe=True),
        Command(text="ollama list", safe=True, note="then: ollama rm NAME of what is not used any more"),
    ]
    if "blobs" in path or folder.rstrip("/").endswith(("models", ".ollama")):
        partial = Command(
            text=f"sudo find {folder}/blobs -name '*-partial*' -mtime +1 -ls",
            safe=True,
            root=True,
            note="left by downloads that were given up; they can be deleted when no pull runs",
        )
        commands.append(partial)
    if boxed:
        commands.append(
            Command(
                text="docker image prune",
                safe=False,
                note="images that no container uses; look at them first",
            )
        )
    commands.append(
        Command(
            text="Move the store: copy it, set OLLAMA_MODELS=/bigger/disk/models (owner ollama), restart "
            "Ollama",
            safe=False,
            root=True,
        )
    )
    return msgspec.structs.replace(REMEDY, commands=tuple(commands))


REMEDY = Remedy(
    text="Make room where the models lie, or move the store to a bigger disk; then pull again: it goes on "
    "where it stopped.",
    commands=(
        Command(text="df -h /usr/share/ollama/.ollama/models", safe=True),
        Command(text="ollama list", safe=True, note="then: ollama rm NAME of what is not used any more"),
        Command(
            text="Set OLLAMA_MODELS=/bigger/disk/models (owner ollama) and restart Ollama",
            safe=False,
            root=True,
        ),
    ),
    verify="The pull ends with «success». Where it says EOF instead, restart Ollama once and pull again.",
    verify_commands=(Command(text="df -h", safe=True), Command(text="ollama pull MODEL", safe=True)),
)

RULE = Rule(
    slug="disk_full",
    title="No room on the disk",
    area="service",
    meaning="The file system that holds the models (or Docker's data, or OpenWebUI's database) is full. "
    "Ollama reserves the whole size of each file before it downloads it.",
    signature=(
        "Error: write /root/.ollama/models/blobs/sha256-…-partial: no space left on device",
        "There is not enough space on the disk.   disk quota exceeded",
    ),
    certain="«df -h» of that very folder, inside the container where it is one: Docker Desktop has a disk "
    "of its own.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="models_dir_permission", how="There the system says «permission denied»."),
        LookAlike(cause="pull_interrupted", how="Parts are retried there too, for reasons of the network."),
    ),
    signs=(FULL,),
    explains=(
        "pull_interrupted",
        "pull_digest_mismatch",
        "gguf_invalid_or_corrupt",
        "runner_missing_library",  # its files could not be unpacked
        "ollama_unreachable",
        "service_unit_misconfig",
    ),
    check=check,
)
