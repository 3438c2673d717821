"""The line with which a log begins: the card, the rules and the models, so that it can be replayed alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from narthex.gateway.schedule.records import Room, Tenant
from narthex.gateway.watch.record import StartRecord, TenantFigures
from narthex.policy.records import GatewayPolicy

STEERING = (
    "starvation",
    "residency",
    "keep_alive",
    "prefer_resident",
    "restore",
    "queue",
    "wait",
    "remember",
    "vram",
    "background",
)
"""Keys of [gateway] that steer who gets the card when."""


def steering(policy: GatewayPolicy) -> dict[str, Any]:
    """Their values."""
    return {name: getattr(policy, name) for name in STEERING}


def start_record(
    policy: GatewayPolicy,
    room: Room,
    tenants: Iterable[Tenant],
    names: Mapping[str, str],
    resident: Iterable[str],
) -> StartRecord:
    """``names``: of the tenants' keys; ``resident``: keys of what is loaded already."""
    return StartRecord(
        at=time.time(),
        total=room.total,
        reserve=room.reserve,
        settings=steering(policy),
        tenants=tuple(
            TenantFigures(
                key=one.key,
                name=names.get(one.key, one.key),
                need=one.need,
                slots=one.slots,
                twin=one.twin,
                elastic=one.elastic,
                keep_alive_s=one.keep_alive_s,
                pinned=one.pinned,
            )
            for one in tenants
        ),
        resident=tuple(resident),
    )
