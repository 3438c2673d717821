"""What stands in front of a line because something carried it here: a journal, Docker, Compose, Kubernetes.

Also what stands in it only because of a terminal: colours, escapes, more than one blank.
"""

from __future__ import annotations

import re

import msgspec

_COLOURS = re.compile(
    r"(?:\x1b|\^\[|#033|\\x1b|\\u001b)\[[0-9;?]*[A-Za-z]"  # also as journals and pastes write the escape
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][AB0]|\[(?:\d{1,2};)*\d{1,2}m"
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\u200b]")
_SPACES = re.compile(r"\s\s|[^\S ]")
_QUOTE = re.compile(r'\\+"')
_DRIVE = re.compile(r"\b[A-Za-z]:\\[^\\]")

_DAY = (  # "Feb 06 20:35:15", "2月 22 …", "févr. 06 …", with an RFC 3164 priority
    r"(?:<\d+>)?(?:\d{1,2} ?[月월]|[^\W\d_]{2,8}\.?) {1,2}\d{1,2}[日일.]? \d\d:\d\d:\d\d(?:[.,]\d+)?"
)
_FULL = r"\w{2,4} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [A-Z+\-\d:]{1,6}"  # journalctl -o short-full
_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
_UNIT = r"(?:\S+ )?(?P<{0}>[A-Za-z(][\w@.()\\:-]*\[\d+\]|kernel|systemd|dockerd|containerd): ?"
_CARRIERS = re.compile(
    rf"^(?:(?P<day>{_DAY}) (?:{_UNIT.format('unit1')}|\S+ (?P<unit2>[\w@.-]+): )"
    rf"|(?P<full>{_FULL}) {_UNIT.format('unit3')}"
    rf"|(?P<unix>\d{{10}}\.\d{{3,6}}) {_UNIT.format('unit4')}"
    rf"|(?P<cri>{_ISO}) (?:stdout|stderr) [FP] ?"
    rf"|(?:<\d+>)?1 (?P<rfc>{_ISO}) \S+ (?P<unit5>\S+) \S+ \S+ (?:-|\[[^\]]*\]) "
    rf"|(?P<iso>{_ISO})[ \t]+(?:{_UNIT.format('unit6')})?"
    r"|(?P<clock>\d\d:\d\d:\d\d(?:\.\d+)?) (?=\S*\[\d+\]: |kernel: )"
    r"|(?:…|\.\.\.|\S+) (?P<unit7>[a-z][\w@.-]*\[\d{2,8}\]|systemd\[1\]): "
    r"|(?:<\d+>)?(?P<unit8>[a-z][\w@.-]*\[\d{2,8}\]|systemd\[1\]|kernel): "
    r"|\[(?P<pod>(?:pod/)?[\w.-]+/[\w./-]+)\] ?"
    r"|(?P<service>(?!INFO|WARN|ERROR|DEBUG|CRITICAL|TRACE)[A-Za-z0-9][\w.@-]*) +\|(?: |$)"
    r"|(?P<stern>[a-z0-9][a-z0-9.-]*-[a-z0-9]{5} [a-z][a-z0-9-]*) (?=time=|\[GIN\]|llama_|load_)"
    r"|(?:[a-z0-9]+ *:[a-z]+ *: )?(?:<\d+>)?\[ *\d+\.\d{3,6}\](?:\[ *[TC]\d+\])? "  # dmesg
    r"|(?P<long>\[\w{2,4}\.? \S{2,8} +\d{1,2} \d\d:\d\d:\d\d(?:\.\d+)? \d{4}\]) "  # dmesg -T
    r"|\[(?P<square>\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d(?:\.\d+)?)?)\](?: |$)"  # ComfyUI
    r"|\d+\.\d\d\.\d{3}\.\d{3} [IWED] "  # llama-server --log-timestamps
    r"|\[(?P<port>\d{4,5})\] )"  # llama-server as a router
)
_STAMPS = ("day", "full", "unix", "cri", "rfc", "iso", "long", "square")
_NAMES = (*(f"unit{number}" for number in range(1, 9)), "pod", "service", "stern", "port")
_NESTED = 4  # carriers before one line, at most: Compose, its timestamp, a journal, a kernel's clock


class Line(msgspec.Struct, frozen=True):
    """A line without its carriers."""

    body: str  # as the program wrote it, without colours
    stream: str = ""
    stamp: str = ""  # the carrier's time, as it stands there
    carried: bool = False


def strip(text: str) -> Line:
    """Take the carriers away."""
    if "[" in text or "#033" in text:
        text = _COLOURS.sub("", text)
    if text.startswith(("time=", "[GIN]", "level=")):
        return Line(text)
    stream = stamp = ""
    carried = False
    for _ in range(_NESTED):
        found = _CARRIERS.match(text)
        if found is None:
            break
        carried = True
        text = text[found.end() :]
        told = found.groupdict()
        stamp = next((told[name] for name in _STAMPS if told[name]), "") or stamp
        stream = next((told[name] for name in _NAMES if told[name]), "") or stream
    return Line(text, stream, _date_of(stamp), carried)


def clean(body: str) -> str:
    """Single blanks, no escaped quotes or line ends, no control characters."""
    if "\\" in body:
        body = _QUOTE.sub('"', body)
        if "\\n" in body and not _DRIVE.search(body):
            body = body.replace("\\n", " ").replace("\\t", " ")
    if not body.isascii() or not body.isprintable():
        body = _CONTROL.sub("", body)
    if _SPACES.search(body):
        return " ".join(body.split())
    return body.strip()


def plain(text: str) -> tuple[str, str]:
    """The line as signs see it, and who wrote it."""
    line = strip(text)
    return clean(line.body), line.stream


def _date_of(stamp: str) -> str:
    """Without a priority before it or a weekday before an ISO date."""
    if stamp.startswith("<"):
        return stamp.partition(">")[2]
    if stamp[:1].isalpha() and stamp[-1:].isalnum() and "-" in stamp:
        words = stamp.split()
        zone = words[3] if len(words) > 3 and words[3][:1] in "+-" else "Z" if words[-1:] == ["UTC"] else ""
        return f"{words[1]}T{words[2]}{zone}" if len(words) > 2 else stamp
    return stamp
