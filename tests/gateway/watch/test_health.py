"""What /healthz and /readyz tell."""

from __future__ import annotations

import json

from narthex.gateway.ask import Rank
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Holding, Room, Snapshot, Waiting
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch.health import BackendState, alive, readiness

BIG = Offer(key="o:big", backend="ollama", name="big:32b", model="big:32b", twin="b", num_ctx=8192)
FILE = Offer(key="l:file", backend="llama-server", name="file.gguf", model="/m/file.gguf", twin="f")
OLLAMA = BackendState(name="ollama", url="http://127.0.0.1:11434", version="0.33.0", answers=True)
GONE = BackendState(name="ollama", url="http://127.0.0.1:11434", answers=False, problem="Connection refused.")
NOW = Snapshot(
    room=Room(total=20, reserve=1, others=2),
    holdings=(Holding(key="o:big", state="ready", held=15, running=1, since=0.0, idle_since=None),),
    waiting=(Waiting(ticket=1, wants="l:file", rank=Rank.INTERACTIVE, client="c", since=0.0),),
    remembered=(),
)


def test_alive_is_a_word_and_a_version() -> None:
    assert json.loads(alive())["status"] == "ok"


def test_ready_tells_backends_roles_residents_and_room() -> None:
    found = readiness(
        listen="127.0.0.1:11435",
        backends=[OLLAMA],
        roles={"quality": (BIG, FILE)},
        offers=[BIG, FILE],
        snapshot=NOW,
    )
    body = json.loads(found.body())
    assert found.status == 200
    assert body["backends"][0]["version"] == "0.33.0"
    assert body["roles"]["quality"]["model"] == "big:32b"
    assert body["roles"]["quality"]["fallbacks"] == ["file.gguf"]
    assert body["residents"] == [{"model": "big:32b", "state": "ready", "vram_bytes": 15, "running": 1}]
    assert (body["room"]["held_bytes"], body["room"]["waiting"]) == (15, 1)
    assert body["problems"] == []


def test_without_a_backend_that_answers_it_is_not_ready_and_says_why() -> None:
    trouble = Trouble(502, "ollama_unreachable", "Ollama is gone.", remedy="Start it.")
    found = readiness(
        listen="",
        backends=[GONE],
        roles={"fast": ()},
        offers=[BIG],
        snapshot=NOW,
        problems=[trouble, trouble],
    )
    assert found.status == 503
    assert found.problems == (
        "Ollama is gone. Start it. [narthex: ollama_unreachable]",
        "ollama at http://127.0.0.1:11434 does not answer. Connection refused.",
        "Nothing that the role «fast» may use is there.",
    )


def test_one_backend_that_is_gone_leaves_the_other_ready() -> None:
    found = readiness(listen="", backends=[GONE], roles={}, offers=[BIG, FILE], snapshot=NOW)
    assert (found.status, found.models) == (200, 1)


def test_without_any_model_it_is_not_ready() -> None:
    found = readiness(listen="", backends=[OLLAMA], roles={}, offers=[], snapshot=NOW)
    assert found.status == 503
    assert "no model" in found.problems[0]
