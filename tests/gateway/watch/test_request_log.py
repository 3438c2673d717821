"""The request log and what stands behind it: private files that turn over, and a disk that says no."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from narthex.gateway.watch.batches import Batches
from narthex.gateway.watch.capture import Capture
from narthex.gateway.watch.record import Line, LoadRecord, RequestRecord, UnloadRecord
from narthex.gateway.watch.request_log import FILES, NAME, RequestLog, files

REQUEST = RequestRecord(id="r-1", at=1.0, api="openai", path="/v1/chat/completions", model="fast")


def lines(path: Path) -> list[Line]:
    return [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]


def test_lines_come_back_as_the_records_they_were(tmp_path: Path) -> None:
    written: list[Line] = [
        REQUEST,
        LoadRecord(at=2.0, key="o:a", name="a", seconds=3.0, evicted=("o:b",)),
        UnloadRecord(at=3.0, key="o:b", name="b", why="for a", client="ide"),
    ]

    async def run() -> None:
        log = RequestLog(tmp_path / "gateway", print)
        for line in written:
            log.add(line)
        await log.close()

    asyncio.run(run())
    assert lines(tmp_path / "gateway" / NAME) == written


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async def run() -> None:
        log = RequestLog(tmp_path / "gateway", print)
        log.add(REQUEST)
        await log.close()

    asyncio.run(run())
    assert stat.S_IMODE((tmp_path / "gateway").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "gateway" / NAME).stat().st_mode) == 0o600


def test_a_full_file_turns_over_and_the_oldest_goes(tmp_path: Path) -> None:
    async def run() -> None:
        for number in range(FILES + 3):
            log = RequestLog(tmp_path, print, size=10)
            log.add(msgspec.structs.replace(REQUEST, id=str(number)))
            await log.close()

    asyncio.run(run())
    kept = [line for path in files(tmp_path) for line in lines(path)]
    assert [line.id for line in kept if isinstance(line, RequestRecord)] == ["3", "4", "5", "6"]


def test_a_folder_that_cannot_be_written_is_told_once_and_requests_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("in the way")

    async def run() -> None:
        log = RequestLog(tmp_path / "file", said.append, pause_s=0.0)
        for _ in range(3):
            log.add(REQUEST)
            await asyncio.sleep(0.02)
        await log.close()

    asyncio.run(run())
    (words,) = said
    assert "can't be written" in words


def test_a_folder_that_can_be_written_again_says_how_much_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("in the way")

    async def run() -> None:
        log = RequestLog(tmp_path / "file", said.append, pause_s=0.0)
        log.add(REQUEST)
        log.add(REQUEST)
        while not said:
            await asyncio.sleep(0.005)
        (tmp_path / "file").unlink()
        log.add(REQUEST)
        await log.close()

    asyncio.run(run())
    assert "written again; 2 lines went missing" in said[1]
    assert len(lines(tmp_path / "file" / NAME)) == 1


_ON_A_FULL_DISK = """
import asyncio, pathlib, resource, signal, sys
from narthex.gateway.watch.record import RequestRecord
from narthex.gateway.watch.request_log import RequestLog

async def run():
    log = RequestLog(pathlib.Path(sys.argv[1]), lambda text: None, pause_s=0.0)
    for number in range(50):
        log.add(RequestRecord(at=1.0, id=str(number), api="ollama", path="/api/chat"))
        await asyncio.sleep(0.002)
    await log.close()

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
asyncio.run(run())
"""


def test_a_disk_that_is_full_in_the_middle_of_a_line_leaves_no_half_of_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)], check=True)
    assert (tmp_path / NAME).read_bytes().endswith(b"}\n")
    assert lines(tmp_path / NAME)


def test_a_disk_that_hangs_holds_up_nobody_and_the_rest_is_counted() -> None:
    begun, release = threading.Event(), threading.Event()
    seen: list[tuple[int, int]] = []

    def write(batch: list[int], lost: int) -> str:
        begun.set()
        release.wait(20)
        seen.append((len(batch), lost))
        return ""

    async def run() -> None:
        batches = Batches(write, pause_s=0.0, most=5)
        batches.add(0)
        await asyncio.to_thread(begun.wait, 20)
        for number in range(20):
            batches.add(number)
        release.set()
        await batches.close()

    asyncio.run(run())
    assert seen == [(1, 0), (5, 15)]


def test_nothing_is_written_where_nothing_came() -> None:
    async def run() -> None:
        batches: Batches[int] = Batches(lambda batch, lost: pytest.fail("written"), pause_s=0.0)
        await batches.close()

    asyncio.run(run())


def test_captures_are_the_bytes_that_came_and_went_and_the_oldest_go(tmp_path: Path) -> None:
    folder = tmp_path / "captures"

    async def run() -> None:
        for number in range(4):
            capture = Capture(folder, print, kept=2)
            one = capture.begin(f"r-{number}", b'{"prompt":"secret"}')
            one.feed(b"first ")
            one.feed(b"second")
            one.end()
            await capture.close()

    asyncio.run(run())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["r-2.answer", "r-2.request", "r-3.answer", "r-3.request"]
    assert (folder / "r-3.answer").read_bytes() == b"first second"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())


def test_a_capture_that_cannot_be_kept_is_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("in the way")

    async def run() -> None:
        capture = Capture(tmp_path / "file", said.append)
        capture.begin("r-1", b"").end()
        await capture.close()

    asyncio.run(run())
    assert len(said) == 1
    assert "can't be kept there" in said[0]
