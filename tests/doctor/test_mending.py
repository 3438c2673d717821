"""Steps are taken one at a time, after a yes, and looked at again; nothing needs root and nothing leaves."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import Command, Diagnosis, Finding, Quote, Remedy, Request, Severity
from narthex.doctor.local_request import is_loopback, post
from narthex.doctor.mending import Check, Mended, Way, mend, perform, way_of
from narthex.doctor.recheck import Rechecker
from narthex.doctor.record import Record
from narthex.doctor.rule import Rule
from narthex.doctor.rules import RULES
from narthex.journal.journal import Journal
from narthex.testing.evidence import evidence_of

SAFE = Command(text="touch it", safe=True, argv=("true",))
HARD = Command(text="stop it", safe=False, argv=("true",))
ROOT = Command(text="sudo modprobe nvidia_uvm", safe=True, root=True, argv=("false",))
HAND = Command(text="Set OLLAMA_MAX_QUEUE=2048", safe=True)


class Person:
    """Answers every question the same way, and remembers what was said."""

    def __init__(self, answer: bool = True, present: bool = True) -> None:
        self.present, self._answer = present, answer
        self.said: list[str] = []
        self.shown: list[str] = []
        self.asked: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, command: Command) -> None:
        self.shown.append(command.text)

    def ask(self, question: str) -> bool:
        self.asked.append(question)
        return self._answer


def finding(*commands: Command, **changes: object) -> Finding:
    fields: dict[str, object] = {
        "cause": "queue_full",
        "title": "Too many wait",
        "severity": Severity.ERROR,
        "confidence": 0.9,
        "evidence": (Quote(source="host", line=1, text="it is full"),),
        "why": "It is full.",
        "remedy": Remedy(text="Do this.", commands=commands),
    }
    return Finding(**{**fields, **changes})  # type: ignore[arg-type]


def run(
    person: Person, *findings: Finding, yes: bool = False, gone: bool | None = True
) -> tuple[list[Mended], list[str]]:
    """What came of it, and what the journal then holds."""
    diagnosis = Diagnosis(findings=findings, facts=(), skipped=())
    with Record(person.say) as record:
        record.findings(findings)
        results = mend(
            diagnosis, person, record, lambda one, since: Check(gone=gone, text=f"gone: {gone}"), yes=yes
        )
    with Journal.open() as journal:
        rows = journal.findings()
    return results, [
        *(f"{step.step}: {step.outcome}" for row in rows for step in row.remedies),
        *(check.text for row in rows for check in row.checks),
    ]


@pytest.mark.parametrize(
    ("command", "yes", "present", "way"),
    [
        (SAFE, False, True, Way.ASK),
        (SAFE, True, True, Way.RUN),
        (SAFE, True, False, Way.RUN),
        (SAFE, False, False, Way.SHOW),
        (HARD, False, True, Way.ASK),
        (HARD, True, True, Way.ASK),
        (HARD, True, False, Way.SHOW),
        (ROOT, True, True, Way.SHOW),
        (HAND, True, True, Way.SHOW),
    ],
)
def test_what_is_done_with_a_step(command: Command, yes: bool, present: bool, way: Way) -> None:
    assert way_of(command, yes=yes, present=present, sure=True) is way


def test_no_way_to_root_is_ever_taken() -> None:
    for way in ("sudo", "/usr/bin/sudo", "su", "doas", "pkexec"):
        forgotten = Command(text="", safe=True, argv=(way, "modprobe", "nvidia_uvm"))
        assert way_of(forgotten, yes=True, present=True, sure=True) is Way.SHOW


def test_a_mere_suspicion_is_never_acted_upon_without_a_question() -> None:
    assert way_of(SAFE, yes=True, present=True, sure=False) is Way.ASK
    assert way_of(SAFE, yes=True, present=False, sure=False) is Way.SHOW


def test_after_a_yes_the_step_is_taken_looked_at_and_written_down() -> None:
    person = Person()
    (result,), journal = run(person, finding(SAFE, HARD))
    assert (result.steps, result.gone) == (("touch it",), True)
    assert person.shown == ["touch it"]  # it is gone: the harder step is not even shown
    assert journal == ["touch it: done", "gone: True"]


def test_where_it_is_not_gone_the_next_step_comes() -> None:
    person = Person()
    (result,), journal = run(person, finding(SAFE, HARD), gone=False)
    assert result.steps == ("touch it", "stop it")
    assert person.asked == ["Do it?", "It interrupts what is running. Do it?"]
    assert journal == ["touch it: done", "stop it: done", "gone: False", "gone: False"]


def test_after_a_no_nothing_is_done() -> None:
    person = Person(answer=False)
    (result,), journal = run(person, finding(SAFE, HARD))
    assert (result.steps, result.gone, journal) == ((), None, [])
    assert len(person.asked) == 2


def test_without_anybody_and_without_yes_nothing_is_done() -> None:
    person = Person(present=False)
    _, journal = run(person, finding(SAFE, HARD, ROOT, HAND))
    assert (person.asked, journal) == ([], [])
    assert person.said[-1] == "Nobody is here to say yes: nothing is done."


def test_what_needs_root_or_hands_is_shown_and_never_taken() -> None:
    person = Person()
    _, journal = run(person, finding(ROOT, HAND, SAFE))
    assert person.shown == ["sudo modprobe nvidia_uvm", "Set OLLAMA_MAX_QUEUE=2048", "touch it"]
    assert "It needs root: run it yourself, narthex never does." in person.said
    assert (len(person.asked), journal) == (1, ["touch it: done", "gone: True"])


def test_a_remedy_without_a_step_of_its_own_is_one_sentence() -> None:
    person = Person()
    _, journal = run(person, finding(ROOT, HAND))
    assert (person.shown, person.asked, journal) == ([], [], [])
    assert person.said[-1] == "Its steps are yours to take; narthex takes none of them by itself."


def test_yes_takes_what_is_safe_and_leaves_what_interrupts() -> None:
    person = Person(present=False)
    _, journal = run(person, finding(SAFE, HARD), yes=True, gone=False)
    assert journal == ["touch it: done", "gone: False"]
    assert any("interrupts" in text for text in person.said)


def test_consequences_and_harmless_things_are_left_alone() -> None:
    person = Person()
    results, _ = run(
        person,
        finding(SAFE, cause="disk_full", consequence_of="queue_full"),
        finding(SAFE, severity=Severity.INFO),
    )
    assert (results, person.shown) == ([], [])


def test_a_step_that_fails_is_told_and_the_next_one_comes() -> None:
    person = Person()
    broken = Command(text="look", safe=True, argv=("ls", "/no/such/folder"))
    missing = Command(text="call", safe=True, argv=("no-such-program-here",))
    (result,), journal = run(person, finding(broken, missing, SAFE))
    assert result.steps == ("touch it",)
    assert journal == ["look: failed", "call: failed", "touch it: done", "gone: True"]
    assert any("No such file or directory" in text for text in person.said)


def test_arguments_reach_the_program_as_they_are_and_no_shell_sees_them(tmp_path: Path) -> None:
    target = tmp_path / "made"
    done = perform(Command(text="", safe=True, argv=("echo", f"$(touch {target}); > {target}")))
    assert done.worked
    assert done.answer == f"$(touch {target}); > {target}"
    assert not target.exists()


def test_a_step_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    argv = ("sh", "-c", f"sleep 600 & echo $! > {pid}; wait")
    done = perform(Command(text="", safe=True, argv=argv), time_s=0.5)
    assert not done.worked
    assert "was ended" in done.answer
    _until_it_is_gone(int(pid.read_text()))


def test_what_a_step_prints_is_kept_without_keys() -> None:
    done = perform(Command(text="", safe=True, argv=("echo", "api_key=abcdef12345")))
    assert done.answer == "api_key=<secret>"


def test_a_key_is_hidden_also_where_its_name_is_cut_off() -> None:
    words = f"api_key: '{'x7Q' * 300} {'9z ' * 500}'"
    answer = perform(Command(text="", safe=True, argv=("echo", words))).answer
    assert "x7Q" not in answer
    assert "9z" not in answer


def test_ctrl_c_in_a_step_ends_it_and_says_what_was_done(tmp_path: Path) -> None:
    person = Person()
    pid = tmp_path / "pid"
    slow = Command(text="wait", safe=True, argv=("sh", "-c", f"echo $$ > {pid}; exec sleep 600"))

    def interrupt() -> None:
        while not pid.exists() or not pid.read_text().strip():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(person, finding(SAFE, slow), gone=False)
    assert "This step was cut off, and it may have been done in part: wait" in person.said
    assert person.said[-1] == "Done before that: touch it."
    with Journal.open() as journal:
        (row,) = journal.findings()
    assert [step.outcome for step in row.remedies] == ["done", "interrupted"]
    _until_it_is_gone(int(pid.read_text()))


def test_a_journal_that_cannot_be_written_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NARTHEX_DATA", str(tmp_path / "file" / "below"))
    with Record(person.say) as record:
        record.findings([finding(SAFE)])
        diagnosis = Diagnosis(findings=(finding(SAFE),), facts=(), skipped=())
        (result,) = mend(
            diagnosis, person, record, lambda one, since: Check(gone=True, text="gone"), yes=True
        )
    assert result.gone
    assert [text for text in person.said if "is not in the journal" in text] == person.said[:1]


def _until_it_is_gone(pid: int) -> None:
    for _ in range(500):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")


class Service(http.server.BaseHTTPRequestHandler):
    """Remembers what it was sent; ``/no`` refuses, ``/away`` sends elsewhere, ``/drip`` comes to no end."""

    got: list[tuple[str, object]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).got.append((self.path, body))
        self.send_response({"/no": 503, "/away": 307}.get(self.path, 200))
        if self.path == "/away":
            self.send_header("Location", "http://192.0.2.1/")
        self.end_headers()
        while self.path == "/drip":
            try:
                self.wfile.write(b".")
            except OSError:
                return
            time.sleep(0.05)
        self.wfile.write(b'{"done":true}')

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[str]:
    Service.got = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_request_is_posted_as_json_and_no_proxy_is_asked(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    request = Request(url=f"{service}/api/generate", body={"model": "llama3", "keep_alive": 0})
    done = perform(Command(text="unload", safe=True, request=request))
    assert (done.worked, done.answer) == (True, '200 {"done":true}')
    assert Service.got == [("/api/generate", {"model": "llama3", "keep_alive": 0})]


@pytest.mark.parametrize(("path", "answer"), [("/no", "503"), ("/away", "307")])
def test_a_refusal_is_a_failure_and_a_redirect_is_not_followed(service: str, path: str, answer: str) -> None:
    done = perform(Command(text="", safe=True, request=Request(url=service + path)))
    assert not done.worked
    assert done.answer.startswith(answer)


def test_a_service_that_never_ends_its_answer_is_left_alone(service: str) -> None:
    done = perform(Command(text="", safe=True, request=Request(url=f"{service}/drip")), time_s=0.3)
    assert (done.worked, done.answer) == (False, "no answer within 0.3 s")


def test_where_nobody_listens_the_step_fails() -> None:
    done = perform(Command(text="", safe=True, request=Request(url="http://127.0.0.1:9/free")))
    assert not done.worked
    assert "refused" in done.answer


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.5:11434/api/generate",
        "http://example.com/",
        "http://localhost.example.com/",
        "http://127.0.0.1.example.com/",
        "http://user@127.0.0.1/",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "http://[::ffff:10.0.0.1]/",
        "http://0.0.0.0:11434/",
        "http://127.0.0.1:99999/",
        "127.0.0.1:11434",
    ],
)
def test_no_other_machine_is_ever_asked(url: str) -> None:
    assert not is_loopback(url)
    with pytest.raises(ValueError, match="is not on this machine"):
        post(Request(url=url), 1.0)
    assert not perform(Command(text="", safe=True, request=Request(url=url))).worked


@pytest.mark.parametrize("url", ["http://127.0.0.1:11434/x", "http://localhost/", "http://[::1]:8188/free"])
def test_this_machine_is(url: str) -> None:
    assert is_loopback(url)


def rechecker(evidence: Evidence, rule: Rule) -> Rechecker:
    return Rechecker(lambda since: evidence, {rule.slug: rule})


QUEUE_FULL = next(rule for rule in RULES if rule.slug == "queue_full")
LINE = "Error: 503 server busy, please try again.  maximum pending requests exceeded"
QUIET = evidence_of(live=True, ollama_log="nothing of that kind")


def test_a_finding_that_comes_up_again_is_not_gone() -> None:
    again = evidence_of(live=True, client_error=LINE)
    found = next(iter(QUEUE_FULL.check(again)))
    assert rechecker(again, QUEUE_FULL)(found, 0.0).gone is False


def test_a_finding_from_readings_is_gone_when_they_no_longer_show_it() -> None:
    assert rechecker(QUIET, QUEUE_FULL)(finding(), 0.0).gone is True


def test_of_a_finding_from_log_lines_silence_proves_nothing() -> None:
    lines = (Quote(source="ollama_log", line=7, text=LINE),)
    check = rechecker(QUIET, QUEUE_FULL)(finding(evidence=lines), 0.0)
    assert check.gone is None
    assert "To be sure" in check.text


def test_there_the_check_of_its_remedy_decides() -> None:
    lines = (Quote(source="ollama_log", line=7, text=LINE),)
    for program, gone in (("true", True), ("false", False)):
        proof = Command(text="prove it", safe=True, argv=(program,))
        remedy = Remedy(text="Do this.", verify_commands=(proof, ROOT))
        check = rechecker(QUIET, QUEUE_FULL)(finding(evidence=lines, remedy=remedy), 0.0)
        assert check.gone is gone


def test_what_can_no_longer_be_seen_is_not_called_gone() -> None:
    rule = Rule(
        slug="queue_full",
        title="t",
        area="service",
        meaning="m",
        signature=(),
        certain="c",
        remedy=Remedy(text="r"),
        look_alikes=(),
        check=lambda evidence: [],
        readings=("gpu.memory",),
    )
    blind = evidence_of([Reading(name="gpu.memory", gap="NVML does not answer")], live=True)
    check = rechecker(blind, rule)(finding(), 0.0)
    assert check.gone is None
    assert "NVML does not answer" in check.text
