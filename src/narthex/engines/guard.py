"""A tiny process between narthex and an engine: it makes sure that no engine outlives narthex.

Run as a script (``python -I -S guard.py FD PROGRAM ARGUMENT…``) by :mod:`narthex.engines.child`; it imports
nothing of narthex, so that it starts in some 20 ms and stays small.

Who may die, and what then happens:

- narthex ends in any way, SIGKILL included: the guard's standard input closes (or its parent changes, where
  another process still holds the pipe), and it ends the engine gently, then firmly.
- the guard is killed: the kernel kills the engine, because the engine asked for that (``PR_SET_PDEATHSIG``).
  The kernel ties that request to the *thread* that made the child; the guard has only one.
- Ctrl-C in a terminal: the guard leads a session of its own, so neither it nor the engine gets the signal.
  narthex decides.

The engine leads a process group of its own, so its helpers go with it.

Standard input takes one letter at a time: ``T`` ends the engine's group gently, ``K`` firmly.
Standard output says ``started PID``, ``refused REASON`` or ``ended CODE`` (negative: ended by that signal).
The engine writes to the descriptor ``FD``.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
GENTLE_S = 2.0  # time for the engine to end by itself once narthex is gone
PARENT_CHECK_S = 0.5
# The kernel's oom-killer picks by size and this score (−1000…1000). An engine under test must go before
# anything else on the user's machine.
OOM_SCORE = b"500"


def say(text: str) -> None:
    """One line to narthex; nobody may be there any more."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode() + b"\n")


def start(program: list[str], output: int) -> "subprocess.Popen[bytes]":
    """The engine, in its own process group, bound to the life of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    guard = os.getpid()

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:  # the guard died before the request was made
            os._exit(1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as score:
            score.write(OOM_SCORE)

    return subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
        preexec_fn=bind,  # noqa: PLW1509  (this process has one thread)
    )


def end_group(group: int, number: int) -> None:
    """A signal to every process of the engine's group."""
    with contextlib.suppress(OSError):  # already gone
        os.killpg(group, number)


def obey(engine: "subprocess.Popen[bytes]", wakeup: int) -> None:
    """Pass on narthex's letters until the engine has ended; end it when narthex is gone."""
    parent = os.getppid()
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(wakeup, select.POLLIN)
    while engine.poll() is None:
        ready = [descriptor for descriptor, _ in poll.poll(PARENT_CHECK_S * 1000)]
        if wakeup in ready:
            numbers = os.read(wakeup, 64)
            if signal.SIGTERM in numbers or signal.SIGINT in numbers or signal.SIGHUP in numbers:
                return
        if 0 in ready:
            letter = os.read(0, 1)
            if not letter:
                return
            end_group(engine.pid, signal.SIGKILL if letter == b"K" else signal.SIGTERM)
        if os.getppid() != parent:
            return


def finish(engine: "subprocess.Popen[bytes]") -> int:
    """Gently, then firmly; returns the exit code. The group's other members go too."""
    if engine.poll() is None:
        end_group(engine.pid, signal.SIGTERM)
        try:
            engine.wait(GENTLE_S)
        except subprocess.TimeoutExpired:
            end_group(engine.pid, signal.SIGKILL)
    code = engine.wait()
    end_group(engine.pid, signal.SIGKILL)
    return code


def main() -> int:
    """Start, watch, report."""
    output = int(sys.argv[1])
    wakeup, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        engine = start(sys.argv[2:], output)
    except OSError as error:
        say(f"refused {error.strerror or error}")
        return 1
    os.close(output)
    say(f"started {engine.pid}")
    obey(engine, wakeup)
    say(f"ended {finish(engine)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
