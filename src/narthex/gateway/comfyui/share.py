"""``ComfyShare``: all that the gateway has of ComfyUI, put together by the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from narthex.gateway.admission import Admission
from narthex.gateway.comfyui.arbiter import KEY, Arbiter
from narthex.gateway.comfyui.client import ComfyClient
from narthex.gateway.comfyui.proxy import ComfyProxy
from narthex.gateway.hands._base import Hand
from narthex.gateway.hands.comfyui import ComfyHand
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Tenant
from narthex.policy.records import GatewayPolicy
from narthex.tenants.comfyui_api import ComfyApi
from narthex.tenants.comfyui_processes import ComfyProcesses


class Roll(Admission[Any], Protocol):
    """A conductor, which also has to know its tenants."""

    def add(self, tenant: Tenant, hand: Hand, offer: Offer) -> None:
        """Make a tenant known, or change its figures."""
        ...


class ComfyShare:
    """``policy.comfyui`` is «reserve» or «lease». ``process``: the name of its process, where that does not
    listen itself. Raises TenantError for an address that makes no sense."""

    def __init__(self, policy: GatewayPolicy, conductor: Roll, *, process: str | None = None) -> None:
        place = ComfyApi(policy.comfyui_url)
        self._conductor = conductor
        self.leases = policy.comfyui == "lease"
        self.client = ComfyClient(policy.comfyui_url, connect_s=policy.connect)
        self._processes = ComfyProcesses(place.host, place.port, process)
        self.hand = ComfyHand(
            self.client,
            self._processes.held_bytes,
            vram=policy.comfyui_vram,
            keep_alive_s=policy.keep_alive,
            grew=self._enlist if self.leases else None,
        )
        self.arbiter: Arbiter[Any] | None = None
        if self.leases:
            self.arbiter = Arbiter(conductor, self.client, wait_s=policy.wait, linger_s=policy.comfyui_linger)
        self.proxy = ComfyProxy(self.client, self.arbiter, body_bytes=policy.body)

    def start(self) -> None:
        """Be known to the conductor, and look at ComfyUI's queue from now on."""
        if self.arbiter is not None:
            self._enlist(self.hand.tenant(), self.hand.offer())
            self.arbiter.start()

    def change(self, policy: GatewayPolicy) -> None:
        """Take the times of another policy; what is served, and where, holds until the next start."""
        if self.arbiter is not None:
            self.arbiter.wait_s, self.arbiter.linger_s = policy.wait, policy.comfyui_linger

    def pids(self) -> dict[str, frozenset[int]]:
        """Its processes as last seen, by its key, where it is a tenant and no stranger; for NVML."""
        return {KEY: self._processes.last} if self.leases and self._processes.last else {}

    def claimed(self, held: Mapping[str, int]) -> dict[str, int]:
        """What each holds, ComfyUI counted with what an image needs; left out where that is not known yet."""
        if KEY not in held:
            return dict(held)
        rest = {key: size for key, size in held.items() if key != KEY}
        claim = self.hand.claim(held[KEY])
        return rest if claim is None else {**rest, KEY: claim}

    async def withheld_bytes(self) -> int:
        """VRAM to keep free for it beyond what it holds; 0 where it leases the card."""
        return 0 if self.leases else await self.hand.withheld_bytes()

    async def close(self) -> None:
        """Give the card back and end the session."""
        if self.arbiter is not None:
            await self.arbiter.close()
        await self.client.close()

    def _enlist(self, tenant: Tenant, offer: Offer) -> None:
        self._conductor.add(tenant, self.hand, offer)
