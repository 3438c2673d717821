"""What goes wrong seldom: parts that end under others, faults of narthex itself, lists that change."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.gateway.fleet import Fleet
from narthex.gateway.routing.catalogue import Catalogue
from narthex.gateway.schedule.records import Tenant
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch.batches import Batches
from narthex.policy import Policy
from narthex.testing.fake_engine import QuickOllama, Scenery

from .serving import Serving, chat
from .serving import until as until_seen
from .test_conductor import PATIENCE_S, Stage, offer, play, trouble_of, until

Begin = Callable[..., Serving]


def test_a_load_whose_hand_ends_under_it_is_answered_and_the_next_one_loads() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_error = asyncio.CancelledError()  # type: ignore[assignment]
        assert (await trouble_of(stage.get("a"))).cause == "load_called_off"
        stage.puppet.load_error = None
        assert (await stage.get("b")).offer_key == "b"

    play(scene)


def test_an_unload_whose_hand_ends_under_it_holds_up_nobody() -> None:
    async def scene(stage: Stage) -> None:
        stage.conductor.release(await stage.get("a"))
        stage.puppet.unload_error = asyncio.CancelledError()  # type: ignore[assignment]
        stage.puppet.there.clear()
        assert (await stage.get("c")).offer_key == "c"
        await until(lambda: stage.states() == {"c": "ready"})

    play(scene)


def test_a_failure_that_is_remembered_keeps_nobody_who_heard_it() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_error = Trouble(507, "vram_does_not_fit", "It is too large.", lasting=True)
        lengths = [
            len(list(traceback.walk_tb((await trouble_of(stage.get("a"))).__traceback__))) for _ in range(4)
        ]
        assert len(set(lengths[1:])) == 1

    play(scene)


def test_words_about_a_study_and_comfyui_stay_words_however_often_they_are_told() -> None:
    async def scene(stage: Stage) -> None:
        for key, name in (("study", "a study"), ("comfyui", "ComfyUI")):
            stage.conductor.add(Tenant(key=key, need=10, slots=1), stage.puppet, offer(key, name))
        words = "study has the card; comfyui_url in [gateway] names comfyui"
        stage.puppet.load_error = Trouble(502, "comfyui_unreachable", words, lasting=True)
        for _ in range(3):
            found = await trouble_of(stage.get("a"))
            assert found.message == "a study has the card; comfyui_url in [gateway] names ComfyUI"

    play(scene)


def test_why_it_is_another_choice_is_told_with_names() -> None:
    async def scene(stage: Stage) -> None:
        for key, name in (("file#1", "one:7b"), ("file#2", "two:7b")):
            stage.conductor.add(Tenant(key=key, need=10, slots=2), stage.puppet, offer(key, name))
        stage.conductor.release(await stage.get("file#2"))
        granted = await stage.get("file#1", "file#2")
        assert granted.offer_key == "file#2"
        assert granted.instead == "«one:7b» is not loaded, and this one is"

    play(scene, prefer_resident=True)


# parts that go on after a fault


def test_a_fault_in_a_look_at_what_there_is_ends_no_later_look() -> None:
    class Broken(Catalogue):
        async def refresh(self) -> None:
            raise OSError("the disk is gone")

    async def story() -> None:
        fleet = Fleet(Policy(), Broken(Policy(), with_ollama=False), None)  # type: ignore[arg-type]
        heard: list[Exception] = []
        fleet.stumbled = heard.append
        await fleet.refresh()
        await fleet.refresh()
        assert [str(error) for error in heard] == ["the disk is gone"] * 2

    asyncio.run(story())


def test_rows_that_could_not_be_written_stop_no_later_ones() -> None:
    written: list[int] = []
    said: list[str] = []

    def write(rows: list[int], lost: int) -> str:
        if rows == [1]:
            raise RuntimeError("this one can't be written")
        written.extend(rows)
        return ""

    async def story() -> None:
        batches = Batches(write, pause_s=0.0, say=said.append)
        batches.add(1)
        await until(lambda: said)
        batches.add(2)
        await batches.close()
        assert written == [2]

    asyncio.run(story())


# the whole gateway, before engines that only look like some

GIB = 1 << 30


@pytest.fixture
def scene(tmp_path: Path) -> Scenery:
    return Scenery(tmp_path / "scene", card_bytes=16 * GIB, manner={"load_s": 0.1})


@pytest.fixture
def begin(scene: Scenery, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Gateways before the scene's llama-server, with the model «one»: ``begin(policy, *words)``."""
    started: list[Serving] = []
    file = scene.model_file("one", GIB)

    def start(policy: str = "", *words: str) -> Serving:
        policy = f'[roles]\nfast = "{file}"\n{policy}'
        engine = ("--no-ollama", "--engine-path", str(scene.program), *words)
        started.append(Serving(tmp_path / f"own-{len(started)}", *engine, policy=policy))
        return started[-1].start()

    yield start
    for found in started:
        found.__exit__(None, None, None)


def engines(scene: Scenery) -> list[int]:
    """The processes on the card."""
    assert scene.card is not None
    return list(scene.card.held())


def test_a_setting_that_is_tuned_anew_is_let_go_however_long_it_was_to_stay(
    scene: Scenery, begin: Begin
) -> None:
    serving = begin('[gateway]\nkeep_alive = "24h"\n[models.one]\nnum_ctx = 2048\n')
    assert serving.post("/api/chat", chat("fast")).status == 200
    (before,) = engines(scene)
    serving.config.write_text(serving.config.read_text().replace("2048", "1024"))
    assert serving.post("/narthex/reload", {}).status == 200
    until_seen(lambda: not serving.residents(), "the old setting is let go")
    assert serving.post("/api/chat", chat("fast")).status == 200
    (after,) = engines(scene)
    assert before != after


def test_a_server_that_hangs_is_ended_and_the_next_one_answers(scene: Scenery, begin: Begin) -> None:
    serving = begin('[gateway]\nfirst_token = "1s"\n')
    assert serving.post("/api/chat", chat("fast")).status == 200
    (pid,) = engines(scene)
    os.kill(pid, signal.SIGSTOP)
    assert serving.post("/api/chat", chat("fast")).status == 504
    until_seen(lambda: pid not in engines(scene), "what hangs is ended")
    assert serving.post("/api/chat", chat("fast")).status == 200


def test_a_load_without_a_prompt_says_what_was_loaded_and_keeps_it_as_asked(begin: Begin) -> None:
    serving = begin("[gateway]\npins = true\n")
    found = serving.post("/api/generate", {"model": "fast", "keep_alive": -1})
    assert found.json["done_reason"] == "load"
    assert (found.headers["X-Narthex-Model"], found.headers["X-Narthex-Role"]) == ("one", "fast")
    (holding,) = serving.get("/narthex/state")["holdings"]
    assert holding["pinned"]
    assert serving.post("/api/chat", chat("fast", keep_alive="5m")).status == 200
    (holding,) = serving.get("/narthex/state")["holdings"]
    assert not holding["pinned"]


def test_a_load_without_a_prompt_hears_of_a_study_at_once(begin: Begin) -> None:
    serving = begin()
    with serving.stream("/narthex/lease", {"who": "narthex tune", "wait_s": 10}) as answer:
        assert b"granted" in answer.readline()
    found = serving.post("/api/generate", {"model": "fast"})
    assert (found.status, found.cause) == (503, "study_running")


def test_who_ends_it_while_it_looks_for_an_engine_waits_for_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        serving = Serving(tmp_path / "own")
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        serving.launch("--listen", f"127.0.0.1:{serving.port}", "--ollama", url)
        silent.settimeout(PATIENCE_S * 3)
        asked, _ = silent.accept()
        assert serving.process is not None
        serving.process.send_signal(signal.SIGTERM)
        until_seen(lambda: "before it served" in serving.log())
        asked.close()
    assert serving.process.wait(PATIENCE_S * 3) == 0
    assert "serves at" not in serving.log()


def test_what_failed_before_is_no_cause_of_what_fails_now(scene: Scenery, tmp_path: Path) -> None:
    for model in ("big:1b", "small:1b"):
        scene.change(model, model_bytes=2 * GIB)
    with QuickOllama(scene) as ollama, Serving(tmp_path / "own", "--ollama", ollama.url) as serving:
        scene.once("big:1b", load_fault="oom")
        assert serving.post("/api/chat", chat("big:1b")).cause == "vram_oom_on_load"
        found = serving.post("/api/chat", chat("small:1b", text="[[error 3]]", tokens=8))
        assert found.status >= 500
        assert found.cause not in ("", "vram_oom_on_load")
        assert "big" not in found.body.decode()
