"""A profile was proven on another engine, driver, card or model than there is now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import Command, Finding, Quote, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule

# How a change begins that makes the measured figures those of something else, see collect/journal.py.
_WEIGHTY = ("the server's settings", "the card is", "the machine is another", "the model file")
_OTHER_WEIGHTS = "has other weights now"

REMEDY = Remedy(
    text="Try the profile once on what is there now; where it no longer holds, let narthex find another.",
    commands=(
        Command(
            text="narthex profile verify NAME", safe=False, note="it loads the model and asks it some turns"
        ),
        Command(text="narthex tune MODEL", safe=False, note="only where it does not hold any more"),
    ),
    verify="The profile is proven again on today's engine and machine.",
    verify_commands=(Command(text="narthex profile list", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """What the journal's collector compared, a finding a model."""
    for row in evidence.all_readings("journal.changed"):
        if not row.value:
            continue
        changes = [str(change) for change in row.value]
        weighty = any(_is_weighty(change) for change in changes)
        name = _profile(evidence, row)
        yield Finding(
            cause="settings_changed_since_profile",
            title=f"The profile of {row.about} was proven under other conditions",
            severity=Severity.WARNING if weighty else Severity.INFO,
            confidence=0.95,
            evidence=_quotes(evidence, row),
            why=f"Since it was proven, {_count(changes)} changed: {'; '.join(changes)}.",
            remedy=_remedy(name, row.about),
            about=row.about,
        )


def _is_weighty(change: str) -> bool:
    return change.startswith(_WEIGHTY) or _OTHER_WEIGHTS in change


def _profile(evidence: Evidence, row: Reading) -> str:
    value = evidence.value("journal.profile", row.about)
    return str(value["name"]) if value else "NAME"


def _quotes(evidence: Evidence, row: Reading) -> tuple[Quote, ...]:
    profile = evidence.reading("journal.profile", row.about)
    rows = [row] if profile is None else [row, profile]
    return tuple(evidence.quote_reading(each) for each in rows)


def _count(changes: Sequence[str]) -> str:
    return "one thing" if len(changes) == 1 else f"{len(changes)} things"


def _remedy(profile: str, model: str) -> Remedy:
    commands = (
        Command(
            text=f"narthex profile verify {profile}",
            safe=False,
            note="it loads the model and asks it some turns",
        ),
        Command(text=f"narthex tune {model}", safe=False, note="only where it does not hold any more"),
    )
    return Remedy(
        text=REMEDY.text, commands=commands, verify=REMEDY.verify, verify_commands=REMEDY.verify_commands
    )


RULE = Rule(
    slug="settings_changed_since_profile",
    title="Something changed since the profile was proven",
    area="stack",
    meaning=(
        "narthex measured a profile with one version of the engine, one driver, one card, one model file and "
        "one set of server settings. One of them is another now, so its figures may not hold."
    ),
    signature=("changed since profile NAME of DATE: Ollama is 0.12.3 now; it was 0.11.4",),
    certain="narthex profile verify tries the profile and compares with what was measured then.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="model_reload_thrash",
            how="Slow because the model is loaded again and again: the log shows loads, and nothing changed.",
        ),
    ),
    readings=("journal.changed",),
    check=check,
)
