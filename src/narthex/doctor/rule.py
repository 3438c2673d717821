"""What a rule is: one cause, its page, the signs and readings that it looks at, and its judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Finding, Remedy
from narthex.doctor.sign import Sign

Check = Callable[[Evidence], Iterable[Finding]]


class LookAlike(msgspec.Struct, frozen=True, kw_only=True):
    """Another cause that looks the same, and how to tell them apart."""

    cause: str
    how: str


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One cause. The texts are its page in ``docs/causes/``; ``check`` judges and touches nothing.

    ``explains``: causes that are its consequences where both are found. ``overrules``: causes that are not
    said where this one is found, because it says the same more exactly. ``readings``: names of what it needs
    of the live machine besides or instead of signs.
    """

    slug: str
    title: str
    area: str  # a name of AREAS
    meaning: str
    signature: tuple[str, ...]  # what the programs print, shortened
    certain: str  # how to be sure
    remedy: Remedy  # of the page; a finding may carry one with its own names and figures
    look_alikes: tuple[LookAlike, ...]
    check: Check
    signs: tuple[Sign, ...] = ()
    readings: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()
    overrules: tuple[str, ...] = ()


AREAS = {
    "gpu": "The GPU and its driver",
    "container": "The GPU in containers",
    "memory": "Memory",
    "model": "Runner and model",
    "service": "Service and network",
    "frontend": "OpenWebUI and ComfyUI",
    "stack": "The whole stack",
}
