"""``narthex doctor --fix`` at a terminal: what is shown, what is asked, and what each answer does."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from narthex.errors import ExitCode
from narthex.journal.journal import Journal

# The findings of this machine are what they are; here one is made up, and all behind it is real.
SCRIPT = """
import sys
from narthex.cli import failure, fixing
from narthex.doctor.finding import Command, Diagnosis, Finding, Quote, Remedy, Severity
from narthex.doctor.record import Record
import click

@click.command()
@click.argument("target")
@click.option("--yes", is_flag=True)
def command(target, yes):
    steps = (
        Command(text=f"sudo touch {target}.root", safe=True, root=True),
        Command(text="make it", safe=True, argv=("touch", target)),
        Command(text="stop it", safe=False, argv=("touch", target + ".hard")),
    )
    proof = Command(text="look", safe=True, argv=("test", "-e", target + ".hard"))
    finding = Finding(
        cause="queue_full", title="Too many wait", severity=Severity.ERROR, confidence=0.9,
        evidence=(Quote(source="ollama_log", line=1, text="full"),), why="It is full.",
        remedy=Remedy(text="Do this.", commands=steps, verify_commands=(proof,)),
    )
    with Record(print) as record:
        record.findings([finding])
        diagnosis = Diagnosis(findings=(finding,), facts=(), skipped=())
        return int(fixing.fix(diagnosis, record, yes=yes))

sys.exit(failure.run(command, sys.argv[1:]))
"""


class Ended:
    """Exit code and everything that was on the screen."""

    def __init__(self, code: int, screen: str) -> None:
        self.code, self.screen = code, screen


def at_a_terminal(folder: Path, answers: str, *words: str) -> Ended:
    """Run it on a terminal of its own. Each letter answers a question: «y», «n», «.» presses Enter, and «c»
    is Ctrl-C."""
    script = folder / "fix.py"
    script.write_text(SCRIPT)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, script, folder / "target", *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "OLLAMA_HOST": "http://127.0.0.1:9"},
    )
    os.close(slave)
    screen, left, interrupted = b"", list(answers), False
    while True:
        if interrupted and not select.select([master], [], [], 2)[0]:
            process.send_signal(signal.SIGINT)  # the first came just before the question was being read
            continue
        if not (piece := _read(master)):
            break
        screen += piece
        while left and screen.count(b"[y/N]") > len(answers) - len(left):
            answer = left.pop(0)
            if answer == "c":
                process.send_signal(signal.SIGINT)
                interrupted = True
            else:
                os.write(master, f"{answer.strip('.')}\n".encode())
    os.close(master)
    return Ended(process.wait(60), screen.decode())


def _read(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # the other side is closed
        return b""


def journaled() -> list[str]:
    with Journal.open() as journal:
        (row,) = journal.findings()
    return [f"{step.step}: {step.outcome}" for step in row.remedies] + [str(one.gone) for one in row.checks]


def test_yes_to_everything_mends_it(tmp_path: Path) -> None:
    ended = at_a_terminal(tmp_path, "yy")
    assert ended.code == ExitCode.OK, ended.screen
    assert (tmp_path / "target.hard").exists()
    assert not (tmp_path / "target.root").exists()
    assert "It needs root: run it yourself" in ended.screen
    assert "runs: touch" in ended.screen
    assert "2 steps taken; 1 of 1 finding gone." in ended.screen
    assert journaled() == ["make it: done", "stop it: done", "False", "True"]


def test_enter_alone_is_a_no(tmp_path: Path) -> None:
    ended = at_a_terminal(tmp_path, "..")
    assert ended.code == ExitCode.FAILURE
    assert "Nothing was changed" in ended.screen
    assert journaled() == []


def test_yes_given_before_still_asks_for_what_interrupts(tmp_path: Path) -> None:
    ended = at_a_terminal(tmp_path, "n", "--yes")
    assert ended.code == ExitCode.FAILURE
    assert ended.screen.count("[y/N]") == 1
    assert "It interrupts what is running" in ended.screen
    assert journaled() == ["make it: done", "False"]


@pytest.mark.parametrize(("words", "steps"), [((), []), (("--yes",), ["make it: done", "False"])])
def test_without_a_terminal_only_yes_does_anything(
    tmp_path: Path, words: tuple[str, ...], steps: list[str]
) -> None:
    script = tmp_path / "fix.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "target", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OLLAMA_HOST": "http://127.0.0.1:9"},
    )
    assert done.returncode == ExitCode.FAILURE
    assert not (tmp_path / "target.hard").exists()
    assert "nobody is here to say yes" in done.stderr.lower()
    assert journaled() == steps


def test_ctrl_c_at_a_question_says_what_was_done(tmp_path: Path) -> None:
    ended = at_a_terminal(tmp_path, "yc")
    assert ended.code == ExitCode.INTERRUPTED, ended.screen
    assert "Done before that: make it." in ended.screen
    assert "narthex: interrupted." in ended.screen
    assert journaled() == ["make it: done", "False"]
