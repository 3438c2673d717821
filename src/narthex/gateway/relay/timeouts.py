"""``Timeouts``: how long the relay waits for an engine, at each stage by itself."""

from __future__ import annotations

import msgspec

from narthex.policy.records import GatewayPolicy


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds. ``first_byte_s`` of an answer that is not streamed holds the whole generation."""

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    between_s: float = 120.0
    total_s: float | None = None  # None: no limit

    @classmethod
    def of(cls, policy: GatewayPolicy) -> Timeouts:
        """As narthex.toml has them."""
        return cls(
            connect_s=policy.connect,
            first_byte_s=policy.first_token,
            between_s=policy.between,
            total_s=policy.total,
        )
