"""A child never outlives narthex, and its end is told exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narthex.engines.child import CannotStart, Child

from .conftest import all_gone, is_gone, wait_until

PARENT = """
import sys, time
from narthex.engines.child import Child
with Child(["sleep", "1000"], env=None, log=None) as child:
    print(child.pid, child._guard.pid, flush=True)
    {then}
"""


def start(*program: str, log: Path | None = None) -> Child:
    return Child(list(program), env=None, log=log)


def parent(then: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process like narthex with a child; returns it with the pids of the child and the guard."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


@pytest.mark.parametrize("code", [0, 1, 7, 134])
def test_an_exit_code_arrives(code: int) -> None:
    child = start("sh", "-c", f"exit {code}")
    assert child.wait(10)
    assert child.exit_code == code


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGILL])
def test_a_signal_arrives_as_a_negative_code(number: signal.Signals) -> None:
    child = start("sleep", "1000")
    os.kill(child.pid, number)
    assert child.wait(10)
    assert child.exit_code == -number
    assert not child.killed


def test_a_program_that_does_not_exist_is_refused_with_the_systems_words() -> None:
    with pytest.raises(CannotStart, match="No such file"):
        start("/no/such/program")


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello")
    path.chmod(0o755)
    with pytest.raises(CannotStart, match="Exec format error"):
        start(str(path))


def test_all_output_is_kept_in_memory_and_in_the_file(tmp_path: Path) -> None:
    child = start("sh", "-c", "seq 1 5000; echo oops >&2; printf end", log=tmp_path / "log")
    assert child.wait(10)
    assert child.output.tail(3) == ["5000", "oops", "end"]
    assert child.output.head()[:2] == ["1", "2"]
    assert (tmp_path / "log").read_text().splitlines()[-1] == "end"


def test_a_gentle_end_is_gentle() -> None:
    child = start("sleep", "1000")
    assert child.end()
    assert child.exit_code == -signal.SIGTERM
    assert not child.alive()


def test_a_stubborn_program_is_killed() -> None:
    child = start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    wait_until(lambda: child.output.tail() == ["ready"])
    assert not child.end(gentle_s=0.2)
    assert child.exit_code == -signal.SIGKILL
    assert child.killed


def test_ending_twice_is_harmless() -> None:
    child = start("sleep", "1000")
    assert child.end()
    assert child.end()


def test_a_programs_own_children_end_with_it() -> None:
    child = start("sh", "-c", "sleep 1000 & echo $!; wait")
    wait_until(lambda: bool(child.output.tail()))
    grandchild = int(child.output.tail()[0])
    child.end()
    wait_until(lambda: is_gone(grandchild))


def test_a_crashed_programs_own_children_end_with_it() -> None:
    child = start("sh", "-c", "sleep 1000 & echo $!; wait")
    wait_until(lambda: bool(child.output.tail()))
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10)
    wait_until(lambda: is_gone(int(child.output.tail()[0])))


def test_a_helper_that_left_the_group_and_holds_the_output_does_not_hold_up_the_end() -> None:
    child = start("sh", "-c", "setsid sleep 1000 & echo $!; sleep 0.2; exit 3")
    assert child.wait(10)
    assert child.exit_code == 3
    os.kill(int(child.output.tail()[0]), signal.SIGKILL)


def test_the_child_goes_when_narthex_is_killed() -> None:
    process, pids = parent("time.sleep(1000)")
    process.kill()
    wait_until(lambda: all_gone(pids))


def test_the_child_goes_when_narthex_is_killed_while_another_process_holds_its_pipes() -> None:
    process, pids = parent("import os; os.fork() or time.sleep(1000); time.sleep(1000)")
    time.sleep(0.2)  # the fork has the pipes now
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: all_gone(pids))
    os.killpg(process.pid, signal.SIGKILL)


def test_the_child_goes_when_the_guard_is_killed() -> None:
    child = start("sleep", "1000")
    os.kill(child._guard.pid, signal.SIGKILL)
    assert child.wait(10)
    wait_until(lambda: is_gone(child.pid))
    assert child.exit_code == -signal.SIGKILL


def test_the_child_goes_when_guard_and_narthex_are_killed_at_once() -> None:
    process, pids = parent("time.sleep(1000)")
    for pid in (pids[1], process.pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all_gone(pids))


def test_the_child_goes_when_narthex_ends_without_a_goodbye() -> None:
    _, pids = parent("import os; os._exit(0)")
    wait_until(lambda: all_gone(pids))


def test_ctrl_c_reaches_narthex_and_not_the_child() -> None:
    process, pids = parent(
        "import signal; signal.signal(signal.SIGINT, lambda *_: None); signal.pause()\n"
        "    print(child.alive(), child.end(), child.exit_code, flush=True)"
    )
    time.sleep(0.2)  # it waits for the signal now
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline().split() == ["True", "True", str(-signal.SIGTERM)]
    wait_until(lambda: all_gone(pids))


def test_the_kernel_would_rather_kill_the_engine_than_the_users_programs() -> None:
    with start("sleep", "1000") as child:
        assert int(Path(f"/proc/{child.pid}/oom_score_adj").read_text()) >= 500
