"""The service's user may not use the folder of the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import container, quotes, started_later
from narthex.doctor.sign import Sign

_PATH = r"(?P<path>(?:/|[A-Za-z]:\\|\.ollama)[^\s:\"']*(?::\\?[^\s:\"']+)?)"
DENIED = Sign(
    rf"\b(?P<op>mkdir|open|stat|lstat|rename|remove|unlink|chmod|chown|write|create|readdirent|symlink|link) "
    rf"{_PATH}(?: /\S+)?: (?P<why>permission denied|read-only file system|operation not permitted"
    r"|access is denied)",
    words=["permission denied", "read-only file system", "not permitted", "access is denied"],
)
TRAVERSE = Sign(r"ensure path elements are traversable", words=["path elements are traversable"])
GGUF = Sign(
    r"failed to open (?:GGUF|gguf"
    r"|model)? ?(?:file )?'?(?P<path>/[^'\s]+?)'?:? \(?(?P<why>Permission denied)\)?",
    words=["permission denied"],
)
PYTHON = Sign(
    r"PermissionError: \[Errno 13\] Permission denied: '(?P<path>[^']+)'", words=["permissionerror"]
)
LISTED = re.compile(
    r"^(?P<mode>[dl-][rwxsStT-]{9})[.+@]? \d+ (?P<user>\S+) (?P<group>\S+) .* (?P<path>/\S*)$"
)
_STORE = re.compile(r"ollama|/models?(?:/|$)|\\models|blobs|manifests|id_ed25519|\.gguf", re.IGNORECASE)
_NOT_STORE = re.compile(
    r"^/(?:dev|proc|sys|run|tmp|var/run|var/log|etc)(?:/|$)|docker\.sock|Modelfile|/runners/|^/usr(?:/local)?/lib/"
    r"|(?:^|/)bin/ollama$",
    re.IGNORECASE,
)
_KEY = re.compile(r"id_ed25519")
_MODELS = "Ollama's models"  # as the collector of disks names a store


def check(evidence: Evidence) -> Iterator[Finding]:
    """A refusal that names a path of the store, or any folder that the server wanted to make."""
    hits = [hit for hit in evidence.hits(DENIED, GGUF, PYTHON) if _is_store(hit)]
    hits += [hit for hit in evidence.hits(TRAVERSE) if hit.entry not in [one.entry for one in hits]]
    if not hits:
        yield from _of_readings(evidence)
        return
    path = next((found for hit in hits if (found := hit.match.groupdict().get("path"))), "")
    reason = next(
        (str(hit.match.groupdict().get("why")) for hit in hits if "why" in hit.match.groupdict()), ""
    )
    read_only = "read-only" in reason.lower()
    listed = _listed(evidence, path)
    at_start = any(hit.match.groupdict().get("op") == "mkdir" for hit in hits) or evidence.has(TRAVERSE)
    over = started_later(evidence, hits[-1].entry) if at_start else None
    yield Finding(
        cause="models_dir_permission",
        title=f"{'Ollama' if 'ollama' in path.lower() or at_start else 'The server'} may not use "
        f"{path or 'the folder of its models'}",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.95,
        evidence=(*quotes(*hits, most=2), *quotes(*listed, most=2)),
        why=_why(path, reason, listed, over),
        ruled_out=(
            RuledOut(cause="disk_full", why="the system refuses for the rights, not for the room"),
            RuledOut(cause="service_unit_misconfig", why="the program ran: the refusal is its own line"),
        ),
        remedy=_read_only(path) if read_only else _remedy(evidence, path, hits),
        about=path,
    )


def _of_readings(evidence: Evidence) -> Iterator[Finding]:
    """A store on a disk that is mounted read-only: what is there loads, and nothing can be pulled."""
    for row in evidence.all_readings("disk"):
        if (
            isinstance(row.value, dict)
            and row.value.get("read_only")
            and _MODELS in str(row.value.get("what"))
        ):
            yield Finding(
                cause="models_dir_permission",
                title=f"The models' folder {row.about} is mounted read-only",
                severity=Severity.WARNING,
                confidence=0.8,
                evidence=(evidence.quote_reading(row),),
                why=f"Nothing can be written in {row.about}: models load, but none can be pulled or created.",
                ruled_out=(RuledOut(cause="disk_full", why="it is the mount that refuses, not the room"),),
                remedy=_read_only(row.about),
                about=row.about,
            )


def _is_store(hit: Hit) -> bool:
    groups = hit.match.groupdict()
    path = str(groups.get("path") or "")
    if path and "gguf" in hit.entry.plain.lower():
        return True  # a model, wherever it lies
    if not path or _NOT_STORE.search(path):
        return False
    if _STORE.search(path):
        return True
    return groups.get("op") == "mkdir" and hit.entry.kind in ("ollama_log", "docker_log", "commands")


def _listed(evidence: Evidence, path: str) -> list[Entry]:
    """Rows of «ls -l» that show the folder or one above it."""
    if not path.startswith("/"):
        return []
    above = {path, *map(str, PurePosixPath(path).parents)} - {"/"}
    rows = []
    for entry in evidence.lines("commands"):
        found = LISTED.match(entry.plain)
        if found and found["path"].rstrip("/") in above:
            rows.append(entry)
    return rows


def _why(path: str, reason: str, listed: list[Entry], over: Hit | None) -> str:
    words = f"The system answered «{reason or 'permission denied'}» for {path or 'a path of the store'}"
    if listed and (found := LISTED.match(listed[0].plain)):
        words += (
            f"; {found['path']} belongs to {found['user']}:{found['group']} with mode {found['mode']}, so "
            "others " + ("can't enter it" if found["mode"][9] in "-T" else "can't write in it")
        )
    if _KEY.search(path):
        words += "; id_ed25519 is the key with which Ollama greets the registry, without it no pull works"
    if over:
        words += f". A later start worked (line {over.entry.line}), so this is over"
    return words + "."


def _remedy(evidence: Evidence, path: str, hits: list[Hit]) -> Remedy:
    name = container(evidence, "ollama")
    boxed = (
        bool(name) or path.startswith("/root/.ollama") or any(hit.entry.kind == "docker_log" for hit in hits)
    )
    folder = _store_of(path)
    if boxed:
        name = name or "ollama"
        return Remedy(
            text="Give the folder that is mounted into the container to the user that runs inside it.",
            commands=(
                Command(text=f"docker exec {name} id", safe=True, note="who runs inside"),
                Command(
                    text=f"docker inspect -f '{{{{json .Mounts}}}}' {name}", safe=True, note="where it lies"
                ),
                Command(
                    text="sudo chown -R UID:GID /path/on/the/host",
                    safe=False,
                    root=True,
                    note="the numbers of the first command; on SELinux hosts mount it with :Z",
                ),
                Command(text=f"docker restart {name}", safe=False, note="running answers end"),
            ),
            verify="A pull writes into the folder.",
            verify_commands=(
                Command(text=f"docker exec {name} ls -ld {folder or '/root/.ollama'}", safe=True),
            ),
        )
    return Remedy(
        text="Give the folder to the service's user, and let that user pass through every folder above it "
        "(mode x). A folder below /home is closed to the service where its unit has ProtectHome=yes.",
        commands=(
            Command(text=f"namei -l {path or folder}", safe=True, note="the mode of every folder on the way"),
            Command(text=f"sudo chown -R ollama:ollama {folder}", safe=False, root=True),
            Command(
                text=f"sudo chmod o+x {PurePosixPath(folder).parent}",
                safe=False,
                root=True,
                note="for each folder above that lacks x",
            ),
            Command(text="sudo systemctl restart ollama", safe=False, root=True, note="running answers end"),
        ),
        verify="The service's user can write there, and the service is active.",
        verify_commands=(
            Command(text=f"sudo -u ollama test -w {folder} && echo ok", safe=True, root=True),
            Command(text="systemctl is-active ollama", safe=True),
        ),
    )


def _store_of(path: str) -> str:
    """The folder to give away: the store itself, not one blob."""
    cut = re.split(r"/(?:blobs|manifests|id_ed25519)(?:/|$)", path)[0]
    return cut if cut.startswith("/") else "/usr/share/ollama/.ollama"


def _read_only(path: str) -> Remedy:
    return Remedy(
        text="The file system is mounted read-only: on purpose (a container's volume with :ro), or because "
        "the kernel found faults on the disk. Look which, before anything is written.",
        commands=(
            Command(text=f"findmnt -T {path or '/usr/share/ollama'}", safe=True),
            Command(text="sudo dmesg | grep -iE 'remount|ext4|xfs|btrfs|I/O error'", safe=True, root=True),
            Command(text="mount it read-write, or take :ro from the volume", safe=False, root=True),
        ),
        verify="findmnt shows rw.",
        verify_commands=(Command(text=f"findmnt -no OPTIONS -T {path or '/usr/share/ollama'}", safe=True),),
    )


REMEDY = Remedy(
    text="Give the folder of the models to the service's user, and let that user pass through every folder "
    "above.",
    commands=(
        Command(text="namei -l /path/of/OLLAMA_MODELS", safe=True),
        Command(text="sudo chown -R ollama:ollama /path/of/OLLAMA_MODELS", safe=False, root=True),
        Command(text="sudo systemctl restart ollama", safe=False, root=True),
    ),
    verify="The service is active, and a pull writes into the folder.",
    verify_commands=(
        Command(text="sudo -u ollama test -w /path/of/OLLAMA_MODELS && echo ok", safe=True, root=True),
    ),
)

RULE = Rule(
    slug="models_dir_permission",
    title="The service may not use the folder of its models",
    area="service",
    meaning="Ollama runs as its own user (ollama), and that user may not write into the folder of "
    "OLLAMA_MODELS, or may not pass through a folder above it. The service ends at start, or each "
    "pull fails.",
    signature=(
        "Error: mkdir /srv/models/blobs: permission denied: ensure path elements are traversable",
        "Error: could not create directory mkdir /var/lib/ollama: permission denied",
        "Error: pull model manifest: open /usr/share/ollama/.ollama/id_ed25519: permission denied",
        "open /root/.ollama/models/blobs/sha256-…: read-only file system",
    ),
    certain="«sudo -u ollama ls» on the folder is refused too; «namei -l» shows the folder that has no x "
    "for others.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="service_unit_misconfig", how="There systemd itself fails, with a status of 200 or more."
        ),
        LookAlike(cause="disk_full", how="«no space left on device» is another answer of the system."),
        LookAlike(
            cause="gguf_invalid_or_corrupt", how="There the file can be opened and its content is wrong."
        ),
    ),
    signs=(DENIED, TRAVERSE, GGUF, PYTHON),
    explains=(
        "service_unit_misconfig",
        "ollama_unreachable",
        "owui_cannot_reach_ollama",
        "gguf_invalid_or_corrupt",
        "model_not_found",
    ),
    check=check,
)
