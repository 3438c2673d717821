"""The conductor with hands that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from narthex.gateway.conductor import Conductor, Granted
from narthex.gateway.hands._base import Progress, Seen, Told
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.schedule.records import Room, Rules, Tenant
from narthex.gateway.trouble import Trouble

PATIENCE_S = 10.0


def offer(key: str, name: str = "") -> Offer:
    return Offer(key=key, backend="llama-server", name=name or key, model=key, twin="")


class Puppet:
    """A hand. Loads, unloads and looks wait for ``gate`` where one is set, then raise ``error`` if there is
    one."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.there: dict[str, int] = {}
        self.load_gate: asyncio.Event | None = None
        self.unload_gate: asyncio.Event | None = None
        self.look_gate: asyncio.Event | None = None
        self.load_error: Exception | None = None
        self.unload_error: Exception | None = None
        self.look_error: Exception | None = None
        self.looks = 0
        self.closed = False

    async def load(self, offer: Offer, told: Told) -> int | None:
        self.loads.append(offer.key)
        told(Progress(stage="loading", share=0.5))
        if self.load_gate is not None:
            await self.load_gate.wait()
        if self.load_error is not None:
            raise self.load_error
        self.there[offer.key] = 10
        return 10

    async def unload(self, offer: Offer) -> None:
        if self.unload_gate is not None:
            await self.unload_gate.wait()
        if self.unload_error is not None:
            raise self.unload_error
        self.there.pop(offer.key, None)

    def upstream(self, offer: Offer) -> Upstream:
        return Upstream(url="http://127.0.0.1:1", dialect="llama-server", model="")

    async def look(self) -> tuple[Seen, ...]:
        self.looks += 1
        seen = tuple(Seen(key=key, held=held) for key, held in self.there.items())
        if self.look_gate is not None:
            await self.look_gate.wait()
        if self.look_error is not None:
            raise self.look_error
        return seen

    async def explain(self, offer: Offer, words: str, status: int | None) -> Trouble:
        return Trouble(502, "engine_failed", words)

    async def close(self) -> None:
        self.closed = True


class Ears:
    """Hears all, and fails at it where it is told to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.broken = False

    def _hear(self, word: str) -> None:
        self.heard.append(word)
        if self.broken:
            raise RuntimeError("nobody can hear this")

    def loading(self, offer: Offer, clients: Sequence[str], evicted: Sequence[str]) -> None:
        self._hear(f"loading {offer.name} for {', '.join(clients)}")

    def loaded(
        self, offer: Offer, seconds: float, held: int | None, clients: Sequence[str], evicted: Sequence[str]
    ) -> None:
        self._hear(f"loaded {offer.name}")

    def failed(self, offer: Offer, seconds: float, trouble: Trouble, clients: Sequence[str]) -> None:
        self._hear(f"failed {offer.name}: {trouble.cause}")

    def evicted(self, offer: Offer, seconds: float, why: str, client: str) -> None:
        self._hear(f"evicted {offer.name}")

    def vanished(self, offer: Offer) -> None:
        self._hear(f"vanished {offer.name}")


class Stage:
    """A conductor of a card of 15 with models of 10: «a» and «b» of one hand, «c» of another."""

    def __init__(self, **rules: Any) -> None:
        self.puppet, self.other, self.ears = Puppet(), Puppet(), Ears()
        self.room = Room(total=15)
        self.observe_error: Exception | None = None
        known = {"residency_s": 0.0, "starvation_s": 600.0}
        self.conductor = Conductor(
            Rules(**(known | rules)), self.room, observe=self._observe, listener=self.ears
        )
        for key, hand in (("a", self.puppet), ("b", self.puppet), ("c", self.other)):
            self.conductor.add(Tenant(key=key, need=10, slots=1), hand, offer(key))

    async def _observe(self) -> tuple[Room, Mapping[str, int]]:
        if self.observe_error is not None:
            raise self.observe_error
        return self.room, {}

    async def get(self, *choices: str, **more: Any) -> Granted:
        return await self.conductor.acquire(choices, **{"wait_s": PATIENCE_S, **more})

    def begin(self, *choices: str, **more: Any) -> asyncio.Task[Granted]:
        return asyncio.create_task(self.get(*choices, **more))

    def states(self) -> dict[str, str]:
        return {row.key: row.state for row in self.conductor.snapshot().holdings}

    def running(self) -> int:
        return sum(row.running for row in self.conductor.snapshot().holdings)

    def waiting(self) -> int:
        return len(self.conductor.snapshot().waiting)


def play(scene: Callable[[Stage], Awaitable[None]], **rules: Any) -> None:
    """Run a scene, and see that nothing is left of it."""

    async def whole() -> None:
        async with asyncio.timeout(PATIENCE_S):
            stage = Stage(**rules)
            await scene(stage)
            await stage.conductor.close()
            assert stage.puppet.closed
            assert stage.other.closed
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, "a task is left"

    asyncio.run(whole())


async def until(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.001)


async def trouble_of(asked: Awaitable[Granted]) -> Trouble:
    with pytest.raises(Trouble) as caught:
        await asked
    return caught.value


def test_a_place_is_given_and_given_back_twice() -> None:
    async def scene(stage: Stage) -> None:
        granted = await stage.get("a")
        assert granted.loaded_for
        assert stage.running() == 1
        waits = stage.begin("a")
        await until(stage.waiting)
        stage.conductor.release(granted)
        stage.conductor.release(granted)
        second = await waits
        stage.conductor.release(granted)
        assert stage.running() == 1, "the first one's place is not the second one's"
        assert not second.loaded_for
        stage.conductor.release(second)
        assert stage.running() == 0
        assert stage.puppet.loads == ["a"]

    play(scene)


@pytest.mark.parametrize(
    "error", [ValueError("odd"), OSError(5, "disk"), KeyError("x"), ExceptionGroup("g", [ValueError()])]
)
def test_whatever_a_load_raises_is_answered(error: Exception) -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_error = error
        first, second = stage.begin("a"), stage.begin("a")
        for asked in (first, second):
            assert (await trouble_of(asked)).cause == "gateway_fault"
        assert stage.puppet.loads == ["a"]
        assert stage.states() == {}
        stage.puppet.load_error = None
        stage.conductor.release(await stage.get("a"))

    play(scene)


def test_a_listener_that_fails_keeps_nobody_waiting() -> None:
    async def scene(stage: Stage) -> None:
        stage.ears.broken = True
        assert (await trouble_of(stage.get("a"))).cause == "gateway_fault"
        stage.ears.broken = False
        stage.conductor.release(await stage.get("a"))

    play(scene)


def test_a_load_that_failed_is_remembered_and_the_next_choice_answers() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_error = Trouble(503, "vram_oom_on_load", "no room", lasting=True)
        assert (await trouble_of(stage.get("a"))).cause == "vram_oom_on_load"
        assert (await trouble_of(stage.get("a"))).cause == "vram_oom_on_load"
        assert stage.puppet.loads == ["a"]
        granted = await stage.get("a", "c")
        assert (granted.offer_key, granted.instead) == ("c", "«a» could not be loaded: no room")
        stage.conductor.release(granted)

    play(scene)


def test_a_load_that_failed_by_chance_sends_who_waits_to_the_next_choice() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_error = Trouble(503, "load_called_off", "it was called off")
        granted = await stage.get("a", "c")
        assert granted.offer_key == "c"
        assert granted.instead == "«a» could not be loaded: it was called off"
        assert stage.puppet.loads == ["a"]
        stage.conductor.release(granted)
        stage.puppet.load_error = None
        again = await stage.get("a", "c")
        assert again.offer_key == "a", "the next one may have better luck"
        stage.conductor.release(again)

    play(scene)


def test_who_leaves_the_queue_takes_no_place() -> None:
    async def scene(stage: Stage) -> None:
        granted = await stage.get("a")
        waits, after = stage.begin("a"), stage.begin("a")
        await until(lambda: stage.waiting() == 2)
        waits.cancel()
        await until(lambda: stage.waiting() == 1)
        stage.conductor.release(granted)
        stage.conductor.release(await after)
        assert stage.running() == 0

    play(scene)


def test_who_leaves_in_the_moment_of_the_grant_gives_it_back() -> None:
    async def scene(stage: Stage) -> None:
        granted = await stage.get("a")
        waits = stage.begin("a")
        await until(stage.waiting)
        stage.conductor.release(granted)  # the place is the other one's now
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert stage.running() == 0
        stage.conductor.release(await stage.get("a"))

    play(scene)


def test_who_leaves_ends_no_load() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_gate = asyncio.Event()
        first = stage.begin("a", client="one")
        await until(lambda: stage.puppet.loads)
        progress = stage.conductor.progress("a")
        assert progress is not None
        assert progress.share == 0.5
        first.cancel()
        second = stage.begin("a", client="two")
        await until(stage.waiting)
        stage.puppet.load_gate.set()
        stage.conductor.release(await second)
        assert stage.puppet.loads == ["a"]
        assert stage.ears.heard == ["loading a for one", "loaded a"]
        assert stage.conductor.progress("a") is None

    play(scene)


def test_a_look_that_hangs_keeps_nobody_from_another_engine() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.look_gate = asyncio.Event()
        stage.conductor.release(await stage.get("c"))
        assert stage.puppet.looks
        stage.other.there.clear()
        stage.conductor.doubt()
        await until(lambda: "vanished c" in stage.ears.heard)
        assert not stage.puppet.look_gate.is_set()

    play(scene)


@pytest.mark.parametrize("error", [ValueError("no JSON"), OSError("gone"), Trouble(503, "x", "y")])
def test_a_look_that_fails_changes_nothing(error: Exception) -> None:
    async def scene(stage: Stage) -> None:
        stage.conductor.release(await stage.get("a"))
        stage.puppet.look_error = stage.observe_error = error
        stage.conductor.doubt()
        await stage.conductor.look()
        assert stage.states() == {"a": "ready"}, "unknown is not empty"
        stage.conductor.release(await stage.get("a"))
        stage.conductor.release(await stage.get("b"))

    play(scene)


def test_what_is_there_without_our_doing_is_used_and_missed_again() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.there["b"] = 10
        await stage.conductor.look()
        assert stage.states() == {"b": "ready"}
        granted = await stage.get("b")
        assert not stage.puppet.loads
        stage.puppet.there.clear()
        stage.conductor.doubt()
        await stage.conductor.look()
        assert stage.states() == {}
        stage.conductor.release(granted)
        stage.conductor.release(await stage.get("b"))
        assert stage.puppet.loads == ["b"]

    play(scene)


def test_a_look_that_saw_what_was_let_go_meanwhile_does_not_bring_it_back() -> None:
    async def scene(stage: Stage) -> None:
        stage.conductor.release(await stage.get("a"))
        await asyncio.sleep(0.01)  # the clock of what follows is another
        stage.puppet.look_gate = asyncio.Event()
        looks = stage.puppet.looks
        look = asyncio.create_task(stage.conductor.look())
        await until(lambda: stage.puppet.looks > looks)
        stage.conductor.let_go("a", "a test")
        await until(lambda: not stage.states())
        stage.puppet.look_gate.set()
        await look
        assert stage.states() == {}

    play(scene)


def test_a_doubt_during_a_look_is_looked_into() -> None:
    async def scene(stage: Stage) -> None:
        stage.conductor.release(await stage.get("a"))
        await asyncio.sleep(0.01)
        stage.puppet.look_gate = asyncio.Event()
        looks = stage.puppet.looks
        look = asyncio.create_task(stage.conductor.look())
        await until(lambda: stage.puppet.looks > looks)  # it has seen «a»
        stage.puppet.there.clear()
        stage.conductor.doubt()
        stage.puppet.look_gate.set()
        await look
        assert stage.states() == {}

    play(scene)


@pytest.mark.parametrize("error", [ValueError("odd"), Trouble(503, "gone", "it is gone")])
def test_an_unload_that_fails_holds_up_nobody_and_is_looked_into(error: Exception) -> None:
    async def scene(stage: Stage) -> None:
        stage.conductor.release(await stage.get("a"))
        await asyncio.sleep(0.01)
        stage.puppet.unload_error = error
        looks = stage.other.looks
        stage.conductor.release(await stage.get("c"))
        assert "evicted a" in stage.ears.heard
        await until(lambda: stage.other.looks > looks)

    play(scene)


def test_the_end_refuses_who_waits_and_loads_for_nobody() -> None:
    async def scene(stage: Stage) -> None:
        granted = await stage.get("a")
        waits, same = stage.begin("b"), stage.begin("a")
        await until(lambda: stage.waiting() == 2)
        stage.conductor.no_more()
        for asked in (waits, same, stage.begin("c")):
            trouble = await trouble_of(asked)
            assert (trouble.status, trouble.cause) == (503, "shutting_down")
        assert stage.waiting() == 0
        assert stage.running() == 1, "what was granted goes on"
        stage.conductor.release(granted)
        assert stage.running() == 0
        assert stage.puppet.loads == ["a"], "nothing is loaded for those who were refused"

    play(scene)


def test_the_end_comes_in_the_middle_of_a_load() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_gate = asyncio.Event()
        waits = stage.begin("a")
        await until(lambda: stage.puppet.loads)
        await stage.conductor.close()
        assert (await trouble_of(waits)).cause == "shutting_down"

    play(scene)


def test_people_read_names_and_not_keys() -> None:
    async def scene(stage: Stage) -> None:
        for key, name in (("file#1", "one:7b"), ("file#2", "two:7b")):
            stage.conductor.add(Tenant(key=key, need=10, slots=1), stage.puppet, offer(key, name))
        granted = await stage.get("file#1")
        trouble = await trouble_of(stage.get("file#2", wait_s=0.05))
        assert trouble.cause == "waited_too_long"
        assert "one:7b" in trouble.message
        assert "two:7b" in trouble.message
        assert "#" not in trouble.text
        stage.conductor.release(granted)

    play(scene)


def test_idle_ones_are_let_go_by_the_conductors_own_clock() -> None:
    async def scene(stage: Stage) -> None:
        stage.conductor.keep("a", 0.05)
        stage.conductor.release(await stage.get("a"))
        await until(lambda: "evicted a" in stage.ears.heard)
        assert stage.states() == {}

    play(scene)
