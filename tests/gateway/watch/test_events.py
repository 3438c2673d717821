"""Lines for people and collectors, and rows in the journal."""

from __future__ import annotations

import asyncio
import json

import pytest

from narthex import paths
from narthex.gateway.watch.events import Events
from narthex.journal.journal import Journal


def said(*, as_json: bool = False, **fields: object) -> str:
    """The line of one event."""
    out: list[str] = []

    async def run() -> None:
        events = Events(as_json=as_json, journaled=False, write=out.append)
        events.say("loaded", "in good time", **fields)
        await events.close()

    asyncio.run(run())
    return "".join(out)


def test_a_line_has_a_time_a_word_and_pairs() -> None:
    line = said(model="big:32b", seconds=20.1, clients=("ide", "open webui"), profile=None, evicted=())
    stamp, _, rest = line.partition(" ")
    assert stamp.endswith("Z")
    assert rest == 'loaded model=big:32b seconds=20.1 clients="ide,open webui" in good time\n'


def test_a_line_of_json_has_the_same_fields() -> None:
    row = json.loads(said(as_json=True, model="big:32b", seconds=20.1, profile=None))
    assert row.pop("at") > 0
    assert row == {"event": "loaded", "model": "big:32b", "seconds": 20.1, "text": "in good time"}


def test_a_name_from_outside_can_neither_end_the_line_nor_steer_the_terminal() -> None:
    line = said(client="x\n2026 forged\x1b[2J")
    assert line.count("\n") == 1
    assert "\x1b" not in line


def test_what_is_kept_stands_in_the_journal_with_its_own_fields_behind() -> None:
    async def run() -> None:
        events = Events(write=lambda text: None)
        events.keep(
            "loaded", "in 20 s", model="big:32b", profile=None, client="ide", seconds=20.1, held_bytes=7
        )
        events.keep("load_failed", model="b", cause="vram_oom_on_load")
        await events.close()

    asyncio.run(run())
    with Journal.open() as journal:
        loaded, failed = journal.gateway_events()
    assert (loaded.kind, loaded.model, loaded.client, loaded.text) == ("loaded", "big:32b", "ide", "in 20 s")
    assert json.loads(loaded.body) == {"seconds": 20.1, "held_bytes": 7}
    assert (failed.kind, failed.cause) == ("load_failed", "vram_oom_on_load")


def test_a_journal_that_takes_nothing_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    paths.data_dir().parent.mkdir(parents=True, exist_ok=True)
    paths.data_dir().write_text("in the way")

    async def run() -> None:
        events = Events(pause_s=0.0)
        for _ in range(3):
            events.keep("loaded", model="a")
            await asyncio.sleep(0.05)
        await events.close()

    asyncio.run(run())
    err = capsys.readouterr().err
    assert err.count(" loaded ") == 3
    assert err.count(" journal The journal ") == 1
    assert "NARTHEX_DATA" in err


def test_a_log_that_nobody_reads_ends_nothing() -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError

    async def run() -> None:
        events = Events(journaled=False, write=gone)
        events.say("loaded")
        await events.close()

    asyncio.run(run())
