"""What may start a server anew: its container or its systemd unit. Used only where the user allowed it.

A change of the environment is never written into what the user made: the container is put aside and a twin
takes its place; the unit gets a drop-in below /run. ``restore()`` brings back what was there, also in a later
run, since the twin carries a label and the drop-in a name. A step that fails undoes those before it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from narthex.engines.ollama import docker, processes
from narthex.engines.ollama.container_hand import ContainerHand
from narthex.engines.ollama.records import Server
from narthex.engines.ollama.unit_hand import UnitHand

_NO_HAND = {
    "elsewhere": "It does not run on this machine, so narthex can't restart it.",
    "container": "Its container can't be reached through Docker, so narthex can't restart it.",
}
_BY_HAND = "It was started by hand: narthex restarts only containers and systemd units."


class Hand(Protocol):
    """What may start one server anew.

    The methods return the server as it is afterwards. They raise EngineError where it does not come back;
    then what was there before is there again.
    """

    words: str  # what it starts anew: «container «ollama»», «ollama.service»

    @property
    def changed(self) -> bool:
        """Whether settings of narthex are in force, also of an earlier run that was killed."""
        ...

    def restart(self) -> Server:
        """Start it anew with the settings it has."""
        ...

    def set_env(self, changes: Mapping[str, str | None]) -> Server:
        """Start it anew with the user's environment and these changes; None takes a variable away. An earlier
        call's changes do not stay."""
        ...

    def restore(self) -> Server:
        """The user's own settings again; nothing happens where they are in force."""
        ...


def hand_for(server: Server) -> Hand | None:
    """The hand for that server; None where narthex must not, or can't, start it anew."""
    return find_hand(server)[0]


def find_hand(server: Server) -> tuple[Hand | None, str]:
    """(the hand, "") or (None, why there is none)."""
    if server.container is not None:
        return _container_hand(server, server.container.name)
    unit = processes.unit_of(server.pid) if server.pid is not None and server.place == "process" else None
    if unit is not None:
        if os.geteuid() == (unit.uid or 0):
            return UnitHand(server, unit), ""
        return None, f"Only root may restart {unit.name}: run narthex with sudo for that."
    return None, _NO_HAND.get(server.place, _BY_HAND)


def _container_hand(server: Server, name: str) -> tuple[Hand | None, str]:
    try:
        found = docker.look(name)
    except docker.NoDocker as error:
        return None, f"Container «{name}» can't be restarted: {error}."
    if found.orchestrated:
        return None, f"{found.orchestrated} keeps this container and would start another in its place."
    return ContainerHand(server, found), ""
