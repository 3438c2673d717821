"""``Parts``: all that a gateway is made of, joined; and their common start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from narthex import paths, settings
from narthex.engines.llama_server import find_engine
from narthex.gateway.admin import Admin
from narthex.gateway.app import Gateway, refused
from narthex.gateway.comfyui.share import ComfyShare
from narthex.gateway.conductor import Conductor
from narthex.gateway.desk import Desk
from narthex.gateway.door.door import Door
from narthex.gateway.door.place import place_of
from narthex.gateway.fleet import Fleet
from narthex.gateway.hands.llama import LlamaHand
from narthex.gateway.hands.room import read_room, room_words
from narthex.gateway.hands.study import OFFER, TENANT, StudyHand
from narthex.gateway.lease import StudyLease
from narthex.gateway.listing.listing import Listing
from narthex.gateway.listing.ollama import OllamaView
from narthex.gateway.relay.relay import Relay
from narthex.gateway.relay.timeouts import Timeouts
from narthex.gateway.routing.catalogue import Catalogue
from narthex.gateway.routing.router import Router
from narthex.gateway.schedule.records import Room, Rules
from narthex.gateway.telling import Telling
from narthex.gateway.translate import described
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch.capture import Capture
from narthex.gateway.watch.events import Events
from narthex.gateway.watch.metrics import Metrics
from narthex.gateway.watch.request_log import RequestLog, folder
from narthex.gateway.watch.starting import start_record
from narthex.policy import Policy
from narthex.policy.records import GatewayPolicy
from narthex.units import format_count

if TYPE_CHECKING:
    from narthex.gateway.server import Setup

COMFYUI = "/comfyui"
_RESERVE = 128 << 20  # stays free where the policy says nothing, as in a plan


class Parts:
    """Everything that one gateway is made of."""

    def __init__(self, setup: Setup, policy: Policy, *, host: str, port: int) -> None:
        gateway = policy.gateway
        self._setup, self.policy = setup, policy
        self._host, self._port = host, port
        self.door = self._door(gateway)
        self.catalogue = Catalogue(policy, ollama=setup.ollama, with_ollama=not setup.only_llama)
        llama = LlamaHand(
            lambda: find_engine(setup.engine_path, setup.engine_args),
            paths.state_dir() / "engine",
            stall_s=gateway.stall,
        )
        self.fleet = Fleet(policy, self.catalogue, llama)
        self.metrics = Metrics()
        self.events = Events(as_json=setup.log_json)
        log = RequestLog(folder(), lambda text: self.events.say("log", text)) if gateway.log else None
        self.telling = Telling(self.metrics, self.events, log)
        self.conductor = Conductor(Rules.of(gateway), Room(), observe=self._observe, listener=self.telling)
        self.router = Router(policy, self.fleet, resident=self._resident)
        self.relay = Relay(Timeouts.of(gateway))
        self.view: OllamaView | None = None
        self.listing = Listing(
            self.fleet,
            self.router,
            self.conductor,
            described,
            ollama=None,
            keep_alive_of=self.fleet.keep_alive,
        )
        self.telling.changed = self.listing.fresh.doubt
        self.telling.name_of = lambda key: self.conductor.offer(key).name
        self.capture = (
            Capture(Path(gateway.capture), lambda text: self.events.say("capture", text))
            if gateway.capture
            else None
        )
        self.lease = StudyLease(self.conductor, busy=self._busy)
        self.gateway = Gateway(
            gateway,
            door=self.door,
            router=self.router,
            conductor=self.conductor,
            relay=self.relay,
            telling=self.telling,
            lease=self.lease,
            keep_alive_of=self.fleet.keep_alive,
            catch_up=self.fleet.catch_up,
            capture=self.capture,
        )
        self.comfyui = _comfyui(policy, self.conductor)
        listen = gateway.comfyui_listen if self.comfyui is not None else None
        self.comfyui_place = place_of(listen) if listen is not None else None
        self.comfyui_door = self._comfyui_door(gateway)
        self.admin = Admin(lambda: self.policy.gateway, lambda: self.view.url if self.view else None)
        self.desk = Desk(
            listen=f"{host}:{port}",
            fleet=self.fleet,
            router=self.router,
            conductor=self.conductor,
            metrics=self.metrics,
            ollama=lambda: self.view,
            reload=self.reload,
            fresh=self.listing.fresh.please,
        )
        self._reserve = settings.get("reserve")
        self._more: list[Callable[[], Any]] = []

    async def start(self) -> None:
        """Look at what is there, and open for requests."""
        await self.relay.start()
        self.conductor.add(TENANT, StudyHand(), OFFER)
        self.fleet.joined = self._join_ollama
        self.fleet.stumbled = lambda error: self.telling.fault("", error)
        await self.fleet.start(self.conductor)
        await self.conductor.look()
        if self.comfyui is not None:
            self.comfyui.start()
            self.gateway.add_routes({("*", f"{COMFYUI}/"): self._comfyui, ("GET", COMFYUI): self._comfyui})
        for routes in (self.listing.routes(), self.desk.routes(), self.lease.routes(), self.admin.routes()):
            self.gateway.add_routes(routes)
        self._told_start()

    async def close(self) -> None:
        """End what was started, write what is left."""
        self.lease.close()
        ends = (
            *((self.comfyui.close,) if self.comfyui is not None else ()),
            self.fleet.close,
            self.listing.close,
            self.conductor.close,
            self.relay.close,
            self.admin.close,
            *self._more,
            *((self.capture.close,) if self.capture is not None else ()),
            self.telling.close,
        )
        for close in ends:
            try:  # one part that fails must not keep another from ending
                await close()
            except Exception as error:
                self.telling.fault("", error)

    def also_close(self, close: Callable[[], Any]) -> None:
        """One more that ends with the rest."""
        self._more.append(close)

    def describe(self) -> str:
        """In one line, what it serves."""
        words = [
            format_count(len(self.fleet.offers()), "setting") + " of models",
            f"roles: {', '.join(self.policy.roles) or 'none'}",
        ]
        if self.view is not None:
            words.append(f"Ollama at {self.view.url}")
        elif self.fleet.problem is not None:
            words.append(self.fleet.problem.message.rstrip("."))
        return "; ".join(
            [*words, room_words(self.policy.gateway.vram, elsewhere=self._elsewhere()).rstrip(".")]
        )

    def reload(self) -> None:
        """Read narthex.toml again; nothing that runs or waits is dropped. Raises NarthexError."""
        policy = self._setup.policy()
        gateway = policy.gateway
        reserve = settings.get("reserve")
        door, self.comfyui_door = self._door(gateway), self._comfyui_door(gateway)
        self.door = self.gateway.door = door
        self.policy = policy
        self.fleet.change(policy)
        self.router.change(policy)
        self.conductor.change(Rules.of(gateway))
        self.relay.timeouts = Timeouts.of(gateway)
        self.gateway.policy = gateway
        self._reserve = reserve
        if self.comfyui is not None:
            self.comfyui.change(gateway)
        self._told_start()

    def _door(self, policy: GatewayPolicy) -> Door:
        return Door(policy, host=self._host, port=self._port, container=self._setup.container)

    def _comfyui_door(self, policy: GatewayPolicy) -> Door:
        """Of its own port, which may be bound elsewhere: the same rules hold there."""
        host, port = self.comfyui_place or (self._host, self._port)
        return Door(policy, host=host, port=port, container=self._setup.container)

    async def comfyui_handler(self, request: web.BaseRequest) -> web.StreamResponse:
        """Of ComfyUI's own port."""
        path = request.rel_url.raw_path_qs
        try:
            client = self.comfyui_door.check(request, any_type=True)
            assert self.comfyui is not None
            return await self.comfyui.proxy.handle(request, path, client)
        except Trouble as trouble:
            return refused(trouble, path, "")

    async def _comfyui(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        assert self.comfyui is not None
        path = request.rel_url.raw_path_qs.removeprefix(COMFYUI)
        return await self.comfyui.proxy.handle(request, path, client)

    async def _observe(self) -> tuple[Room, Mapping[str, int]]:
        """The card now; in a thread, since NVML and /proc may block."""
        told = {row.key: row.held for row in self.conductor.snapshot().holdings if row.held is not None}
        reserve = self._reserve if self._reserve is not None else _RESERVE
        withheld = await self.comfyui.withheld_bytes() if self.comfyui is not None else 0
        pids = {**self.fleet.pids(), **(self.comfyui.pids() if self.comfyui is not None else {})}
        room, held = await asyncio.to_thread(
            read_room,
            self.policy.gateway.vram,
            reserve + withheld,
            pids,
            told=told,
            elsewhere=self._elsewhere(),
            roots=self.fleet.roots(),
        )
        return room, held if self.comfyui is None else self.comfyui.claimed(held)

    def _elsewhere(self) -> bool:
        """Whether all that is served computes on another machine."""
        held = self.catalogue.held
        return (
            held is not None
            and held.server.place == "elsewhere"
            and all(offer.backend == "ollama" for offer in self.fleet.offers())
        )

    def _join_ollama(self) -> None:
        held = self.catalogue.held
        if held is not None and (self.view is None or self.view.url != held.server.url):
            self.view = OllamaView(held.server.url)
            self.listing.join(self.view)
            self.lease.ollama = held.server.url

    def _resident(self) -> set[str]:
        return {row.key for row in self.conductor.snapshot().holdings if row.state == "ready"}

    def _busy(self) -> list[str]:
        names = {offer.key: offer.name for offer in self.fleet.offers()}
        return [names.get(row.key, row.key) for row in self.conductor.snapshot().holdings if row.running]

    def _told_start(self) -> None:
        """The first line of the log, and one after each reload: what a replay needs to know."""
        snapshot = self.conductor.snapshot()
        self.telling.started(
            start_record(
                self.policy.gateway,
                snapshot.room,
                self.conductor.tenants(),
                {offer.key: offer.name for offer in self.fleet.offers()},
                [row.key for row in snapshot.holdings if row.state == "ready"],
            )
        )


def _comfyui(policy: Policy, conductor: Conductor) -> ComfyShare | None:
    """Its share of the card, where it has one. [beside.comfyui] may name its process."""
    if policy.gateway.comfyui == "off":
        return None
    tenant = policy.tenant("comfyui")
    return ComfyShare(policy.gateway, conductor, process=tenant.process if tenant else None)
