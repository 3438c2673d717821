"""The record of a child's output is bounded, and its newest lines always survive."""

from __future__ import annotations

from pathlib import Path

from narthex.engines.output import HEAD_LINES, LINE_BYTES, TAIL_LINES, Output


def test_lines_may_arrive_in_pieces() -> None:
    output = Output(None)
    for piece in (b"one\ntw", b"o\r\nth", b"ree"):
        output.feed(piece)
    assert output.tail() == ["one", "two"]
    output.close()
    assert output.tail() == ["one", "two", "three"]


def test_memory_is_bounded_at_both_ends() -> None:
    output = Output(None)
    output.feed(b"".join(b"%d\n" % number for number in range(HEAD_LINES + 5_000)))
    assert len(output.head()) == HEAD_LINES
    assert len(output.tail()) == TAIL_LINES
    assert output.head()[0] == "0"
    assert output.tail()[-1] == str(HEAD_LINES + 4_999)
    assert output.count == HEAD_LINES + 5_000


def test_an_endless_line_is_cut() -> None:
    output = Output(None)
    for _ in range(100):
        output.feed(b"x" * 10_000)
    output.close()
    assert max(len(line) for line in output.tail()) == LINE_BYTES


def test_bytes_that_are_no_text_do_no_harm() -> None:
    output = Output(None)
    output.feed(b"\xff\xfe ok\n")
    assert output.tail()[0].endswith(" ok")


def test_a_full_file_makes_room_and_the_newest_lines_survive(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "engine.log"
    output = Output(path, file_bytes=1_000)
    for number in range(300):
        output.feed(b"line %d\n" % number)
    output.close()
    assert path.read_text().splitlines()[-1] == "line 299"
    assert path.with_name("engine.log.1").exists()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 3_000


def test_a_full_disk_ends_the_file_and_not_the_trial() -> None:
    output = Output(Path("/dev/full"))
    output.feed(b"one\n")
    output.feed(b"two\n")
    output.close()
    assert output.tail() == ["one", "two"]


def test_waiting_ends_with_the_next_line() -> None:
    output = Output(None)
    output.feed(b"one\n")
    assert output.wait(0, 10) == 1
    assert output.wait(1, 0.01) == 1


def test_a_folder_that_cannot_be_written_to_costs_the_file_only(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    output = Output(blocked / "engine.log")
    output.feed(b"a line\n")
    output.close()
    assert output.head() == ["a line"]
