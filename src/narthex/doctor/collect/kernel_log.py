"""The kernel's log of this boot: Xid and NVRM, the oom-killer, suspend and resume."""

from __future__ import annotations

from datetime import datetime

from narthex.doctor.collect.children import Ran
from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.scope import Scope
from narthex.doctor.finding import Skipped
from narthex.doctor.reading.text import Text

NAME = "kernel log"
TIME_S = 2.6

_PART_S = 1.2  # for each of the two ways to read it
_MOST_BYTES = 16 << 20
_LINES = 40_000
_ROOT = "as root, or in the group systemd-journal (adm on Debian and Ubuntu), narthex would see it"


def collect(scope: Scope) -> Collected:
    """From the journal, which tells the time of day also after a suspend; else from the kernel's own ring."""
    if not scope.is_this_machine:
        return _recorded(scope)
    journal = _journal(scope)
    if journal.out:
        return _found("journalctl -k", journal.out)
    ring = _ring(scope)
    if ring.out:
        return _found("dmesg", _since(ring.out, scope.since))
    if ring.status == 0 and not ring.missing:
        return Collected(skipped=(Skipped(what=NAME, why="can't tell, because the kernel's log is empty"),))
    return Collected(skipped=(Skipped(what=NAME, why=f"can't tell, because {_why(journal, ring)}"),))


def _journal(scope: Scope) -> Ran:
    """With ``since`` also of boots before: a card that hung is often found after a restart."""
    place = (
        ["--boot", "--dmesg"]
        if scope.since is None
        else ["_TRANSPORT=kernel", f"--since=@{int(scope.since)}"]
    )
    argv = ["journalctl", *place, "--no-pager", "--quiet", "--output=short-iso", f"--lines={_LINES}"]
    return scope.children.run(argv, seconds=_PART_S, most_bytes=_MOST_BYTES)


def _ring(scope: Scope) -> Ran:
    ran = scope.children.run(["dmesg", "--time-format=iso"], seconds=_PART_S, most_bytes=_MOST_BYTES)
    if ran.status in (0, None) or "permitted" in ran.err:
        return ran
    return scope.children.run(["dmesg"], seconds=_PART_S, most_bytes=_MOST_BYTES)  # BusyBox knows no format


def _recorded(scope: Scope) -> Collected:
    text = scope.read("/var/log/dmesg")
    return _found("/var/log/dmesg", text.encode()) if text else Collected()


def _found(name: str, data: bytes) -> Collected:
    return Collected(texts=(Text(kind="dmesg", name=name, data=data),))


def _since(data: bytes, since: float | None) -> bytes:
    """The lines from a moment on; those without a time stay with the line before."""
    if since is None:
        return data
    lines = data.splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if _is_later(line, since)), len(lines))
    return b"".join(lines[first:])


def _is_later(line: bytes, since: float) -> bool:
    stamp = line.decode(errors="replace").partition(" ")[0].replace(",", ".")
    try:
        return datetime.fromisoformat(stamp).timestamp() >= since
    except ValueError:
        return False


def _why(journal: Ran, ring: Ran) -> str:
    if journal.late or ring.late:
        return "reading the kernel's log took too long"
    if journal.missing and ring.missing:
        return "neither journalctl nor dmesg is installed here"
    if "permitted" in ring.err or "denied" in ring.err:
        return f"this user may read neither the kernel's journal nor dmesg; {_ROOT}"
    failed = ring.err or "no answer"
    return f"the journal shows nothing of the kernel to this user, and dmesg fails: {failed}; {_ROOT}"
