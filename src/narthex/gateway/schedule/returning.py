"""``Returning``: what had to go for an image or a study, and comes back after it."""

from __future__ import annotations

from collections.abc import Mapping

from narthex.gateway.schedule.ledger import Ledger
from narthex.gateway.schedule.records import Tenant


class Returning:
    """Keys that are owed a load, each with the guest that they went for."""

    def __init__(self) -> None:
        self._owed: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._owed)

    def owe(self, key: str, guest: str) -> None:
        """It goes for this guest."""
        self._owed[key] = guest

    def forget(self, key: str) -> None:
        """It is there again, or can't be."""
        self._owed.pop(key, None)

    def next(self, ledger: Ledger, tenants: Mapping[str, Tenant]) -> tuple[str, str]:
        """What can come back now: its key and "", or with it a guest that is idle and has to go first; two
        empty ones where nothing can. Whoever finds the room taken by others is forgotten."""
        for key, reason in list(self._owed.items()):
            guest = ledger.places.get(reason)
            if guest is not None and not guest.idle:
                continue
            tenant = tenants.get(key)
            if tenant is not None and key not in ledger.places:
                if ledger.fits(tenant):
                    return key, ""
                if guest is not None and not guest.tenant.pinned and ledger.fits(tenant, (reason,)):
                    return key, reason
            self.forget(key)
        return "", ""
