"""Programs with a limit on their time and their output."""

from __future__ import annotations

import sys

from narthex.doctor.collect.children import Children


def test_a_program_that_ends_tells_all() -> None:
    ran = Children().run([sys.executable, "-c", "import sys; print('out'); sys.exit('why')"], seconds=30)
    assert (ran.out, ran.err, ran.status) == (b"out\n", "why", 1)
    assert not ran.late
    assert not ran.cut


def test_one_that_is_not_installed() -> None:
    assert Children().run(["no-such-program-here"], seconds=1).missing


def test_one_that_hangs_is_ended_with_its_children() -> None:
    ran = Children().run(["sh", "-c", "echo begun; sleep 300 & wait"], seconds=0.3)
    assert ran.late
    assert ran.out == b"begun\n"
    assert ran.status is None


def test_one_that_never_stops_talking_is_cut() -> None:
    ran = Children().run(["yes"], seconds=30, most_bytes=100_000)
    assert ran.cut
    assert len(ran.out) == 100_000


def test_one_that_closes_its_output_and_lives_on_is_ended() -> None:
    ran = Children().run(["sh", "-c", "exec >&- 2>&-; sleep 300"], seconds=0.3)
    assert ran.late
