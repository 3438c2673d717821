"""The table of rules: one file each, in the folders of their areas."""

from __future__ import annotations

from narthex.doctor.rule import Rule
from narthex.doctor.rules import container, frontend, gpu, memory, model, service, stack
from narthex.doctor.sign import Sign
from narthex.doctor.signs import SHARED

AREAS = (gpu, container, memory, model, service, frontend, stack)
RULES: tuple[Rule, ...] = tuple(module.RULE for area in AREAS for module in area.MODULES)
SIGNS: tuple[Sign, ...] = tuple(dict.fromkeys((*SHARED, *(sign for rule in RULES for sign in rule.signs))))
