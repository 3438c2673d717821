"""A download that breaks off on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import REGISTRIES, is_local, quotes
from narthex.doctor.rules.service.pulling import DOWNLOADING, PULLED, SUCCESS, ended_well, url_host
from narthex.doctor.sign import Sign
from narthex.engines.ollama.durations import go_seconds

PART_FAILED = Sign(
    r"(?P<blob>[0-9a-f]{12}) part (?P<part>\d+) attempt (?P<attempt>\d+) failed: (?P<why>.+?)"
    r"(?:, retrying(?: in (?P<wait>[\w.]+))?)?\"?$",
    words=[" attempt "],
    first=300,
    last=300,
)
STALLED = Sign(
    r"(?P<blob>[0-9a-f]{12}) part (?P<part>\d+) stalled; ?retrying",
    words=["stalled; retrying", "stalled;retrying"],
)
# urllib3 says «…port=8188): Max retries exceeded with url»: a call to any service
GAVE_UP = Sign(
    r"(?<!\): )\bmax retries exceeded(?! with url)(?:: (?P<why>.*))?", words=["max retries exceeded"]
)
_BROKEN = (
    r"i/o timeout|connection reset by peer|(?:unexpected )?EOF|network is unreachable|no route to host"
    r"|connection refused|connection timed out|TLS handshake timeout|context deadline exceeded"
    r"|forcibly closed"
    r"|failed to respond|connection was aborted|actively refused|use of closed network connection"
    r"|stream error"
    r"|http2: .*|GOAWAY"
)
NETWORK = Sign(
    r"(?:pull model manifest|request failed|couldn't download blob|(?:Get|Head|Put"
    r"|Post) \"?https?://\S+?\"?): "
    rf"(?:.*?)(?P<why>{_BROKEN})",
    words=["pull model manifest", "request failed", "download blob", "https://", "http://"],
)
ANSWER = Sign(
    r"pull model manifest: (?P<status>40[37]|429|5\d\d)\b:? ?(?P<text>.*)|^Error: (?P<bare>403|429|5\d\d): ?",
    words=["pull model manifest", "error: 4", "error: 5"],
)
END_OF_FILE = Sign(r"^Error: (?:unexpected )?EOF$", words=["eof"])
_OTHER = re.compile(
    r"\blookup |x509|certificate|no space left|quota exceeded|permission denied|digest mismatch"
    r"|file does not exist",
    re.IGNORECASE,
)
_PULL = re.compile(r"/v2/|\bpull|manifests/|blobs/", re.IGNORECASE)
# What a good line does too: a few parts tried again once or twice. Each attempt waits twice as long.
MANY = 6
ATTEMPTS = 3
LONG_S = 600.0
SLOW_PULL_S = 1800.0

REMEDY = Remedy(
    text="Pull again: it goes on where it stopped. Where it breaks off again and again, take another way "
    "to the internet, or fetch fewer parts at a time on a slow line.",
    commands=(
        Command(text="until ollama pull MODEL; do sleep 5; done", safe=True, note="until it is whole"),
        Command(text="curl -sSI https://registry.ollama.ai/v2/", safe=True, note="from where Ollama runs"),
        Command(
            text='sudo systemctl edit ollama   # [Service]  Environment="HTTPS_PROXY=http://proxy:3128"',
            safe=False,
            root=True,
            note="where only a proxy reaches the internet: for the server, not for the command line",
        ),
    ),
    verify="The pull ends with «success».",
    verify_commands=(Command(text="ollama pull MODEL", safe=True), Command(text="ollama list", safe=True)),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Told apart: parts that are tried again (harmless where it ends well), and a download that gave up."""
    gave_up = [hit for hit in evidence.hits(GAVE_UP, NETWORK, ANSWER) if _is_network(hit)]
    gave_up += [hit for hit in evidence.hits(END_OF_FILE) if _while_pulling(evidence, hit.entry)]
    retried = [hit for hit in evidence.hits(PART_FAILED, STALLED) if not _OTHER.search(hit.entry.plain)]
    if not gave_up and not retried:
        return
    last = max((hit.entry for hit in (*gave_up, *retried)), key=lambda entry: entry.line)
    over = ended_well(evidence, last)
    if gave_up:
        yield _broken(evidence, gave_up, retried, over)
    else:
        yield _slow(evidence, retried, over or _log_ended(evidence, last))


def _is_network(hit: Hit) -> bool:
    if _OTHER.search(hit.entry.plain):
        return False
    host = url_host(hit.entry.plain)
    if not host:
        return True
    return not is_local(host) and bool(REGISTRIES.search(host) or _PULL.search(hit.entry.plain))


def _while_pulling(evidence: Evidence, entry: Entry) -> bool:
    return any("pulling" in one.plain.lower() for one in evidence.around(entry, before=8, after=0))


def _log_ended(evidence: Evidence, last: Entry) -> Entry | None:
    """The access log's line of the pull; it proves an end, and of a mere retry a good one."""
    return next(
        (
            hit.entry
            for hit in evidence.hits(PULLED)
            if hit.entry.source == last.source and hit.entry.line > last.line
        ),
        None,
    )


def _broken(evidence: Evidence, hits: Sequence[Hit], retried: Sequence[Hit], over: Entry | None) -> Finding:
    hit = hits[0]
    groups = hit.match.groupdict()
    status = groups.get("status") or groups.get("bare")
    reason = (
        f"status {status} from the registry or from a proxy before it"
        if status
        else str(groups.get("why") or "")
    )
    count = evidence.count(PART_FAILED, STALLED)
    words = f"The download was given up{f': {reason}' if reason else ''}"
    words += f"; parts of it were tried again {count} times" if retried else ""
    words += f". A later pull ended well (line {over.line}), so this is over" if over else ""
    return Finding(
        cause="pull_interrupted",
        title="A download broke off",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.7 if status else 0.9,
        evidence=quotes(*hits[:3], *retried[-1:]),
        why=words + ".",
        ruled_out=(
            RuledOut(cause="pull_dns_failure", why="the name was resolved"),
            RuledOut(cause="disk_full", why="no write failed"),
        ),
        remedy=REMEDY,
    )


def _slow(evidence: Evidence, retried: Sequence[Hit], over: Entry | None) -> Finding:
    count = evidence.count(PART_FAILED, STALLED)
    blobs = {hit["blob"] for hit in retried}
    cost = _cost(evidence, retried, over)
    words = f"Parts of {len(blobs)} file{'s' * (len(blobs) != 1)} were tried again, {count} times in all"
    words += f" ({cost})" if cost else ""
    if over and cost:
        words += f"; the pull came to its end (line {over.line}), and the line to the registry is bad"
    elif over:
        words += f", and the pull came to its end (line {over.line}): harmless"
    else:
        words += "; whether the pull came to its end is not told here"
    return Finding(
        cause="pull_interrupted",
        title="A download stalls and is tried again",
        severity=Severity.INFO if over and not cost else Severity.WARNING,
        confidence=0.8,
        evidence=quotes(retried[0], retried[-1], over),
        why=words + ".",
        ruled_out=(RuledOut(cause="pull_dns_failure", why="the name was resolved: data came"),),
        remedy=REMEDY,
    )


def _cost(evidence: Evidence, retried: Sequence[Hit], over: Entry | None) -> str:
    """What makes it more than a few quick retries; "" where it was no more than that."""
    told = []
    count = evidence.count(PART_FAILED, STALLED)
    attempts = [int(hit["attempt"]) for hit in retried if "attempt" in hit.match.groupdict()]
    if count >= MANY:
        told.append("many times")
    if max(attempts, default=0) >= ATTEMPTS:
        told.append(f"up to attempt {max(attempts)} of the same part")
    times = [hit.entry.at for hit in retried if hit.entry.at is not None]
    span = max(times, default=0.0) - min(times, default=0.0)
    if span >= LONG_S:
        told.append(f"over {span / 60:.0f} minutes")
    took = _pull_seconds(evidence, over)
    if took >= SLOW_PULL_S and count > 1:
        told.append(f"in a pull of {took / 60:.0f} minutes")
    return ", ".join(told)


def _pull_seconds(evidence: Evidence, over: Entry | None) -> float:
    """How long the pull took by the access log's line; 0 where none tells it."""
    if over is None:
        return 0.0
    return next((go_seconds(hit["took"]) or 0.0 for hit in evidence.hits(PULLED) if hit.entry == over), 0.0)


RULE = Rule(
    slug="pull_interrupted",
    title="A download breaks off",
    area="service",
    meaning="The line to the registry's storage drops or stalls. Ollama tries each part again several "
    "times; only when it gives up is something lost, and even then the next pull goes on from "
    "there.",
    signature=(
        "8934d96d3f08 part 14 stalled; retrying.",
        "part 5 attempt 0 failed: unexpected EOF, retrying in 1s",
        "Error: max retries exceeded: EOF",
        'Get "https://registry.ollama.ai/v2/…": dial tcp 104.21.75.227:443: i/o timeout',
    ),
    certain="Another machine on the same line fares the same; on another line the pull works. A few quick "
    "retries are harmless: pulls do that. Many, or retries over a long time, tell of a bad line even where "
    "the pull comes to its end.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="disk_full", how="The parts fail with «no space left on device»."),
        LookAlike(cause="pull_dns_failure", how="«lookup …» fails: there is no address yet."),
        LookAlike(cause="model_not_found", how="«file does not exist» is a wrong name."),
    ),
    signs=(PART_FAILED, STALLED, GAVE_UP, NETWORK, ANSWER, END_OF_FILE, PULLED, SUCCESS, DOWNLOADING),
    check=check,
)
