"""Profiles in the journal: stored as JSON, newest row of a name wins, found by what a person types."""

from __future__ import annotations

from pathlib import Path

import msgspec

from narthex.errors import JournalError, ProfileError
from narthex.journal.journal import Journal
from narthex.journal.rows import ProfileRow
from narthex.profiles.choose import with_soak
from narthex.profiles.profile import Profile
from narthex.trials.soak import SoakReport


def save_profile(journal: Journal, profile: Profile) -> Profile:
    """Store a profile. Returns it with the name it got; see :func:`with_own_name`."""
    profile = with_own_name(journal, profile)
    journal.append_profile(profile.name, profile.model.identity, msgspec.json.encode(profile))
    return profile


def with_own_name(journal: Journal, profile: Profile) -> Profile:
    """The profile under a name of its own: where another model has it already, the first letters of its
    model's identity are put behind it; where it is the same model on another engine, that engine's kind."""
    others = {row.name: row for row in journal.profile_bodies()}
    name = profile.name
    if (row := others.get(name)) is not None and row.model_identity != profile.model.identity:
        name += f"-{profile.model.identity.removeprefix('ollama:')[:6].lower()}"
    if (row := others.get(name)) is not None and _profile(row).engine_kind != profile.engine_kind:
        name += f"-{profile.engine_kind}"
    return msgspec.structs.replace(profile, name=name)


def add_soak(journal: Journal, profile: Profile, report: SoakReport) -> Profile:
    """Journal one more soak of a stored profile; its seconds add up. Returns the profile as it is now."""
    journal.append_soak(study=None, profile=profile.name, knobs=profile.knobs, report=report)
    return save_profile(journal, with_soak(profile, report))


def list_profiles(journal: Journal) -> list[Profile]:
    """All profiles, the newest first."""
    return [_profile(row) for row in journal.profile_bodies()]


def load_profile(journal: Journal, text: str) -> Profile:
    """One profile as a person names it: its name, the beginning of its name, or its model (name, file name
    or path; the newest profile of that model). Raises ProfileError."""
    profiles = list_profiles(journal)
    for profile in profiles:
        if profile.name == text:
            return profile
    matches = [profile for profile in profiles if text and profile.name.startswith(text.lower())]
    if len(matches) > 1:
        names = ", ".join(profile.name for profile in matches[:4])
        raise ProfileError(
            f"«{text}» is the beginning of {len(matches)} profiles.", hint=f"Name one: {names}."
        )
    matches = matches or [profile for profile in profiles if _is_of(profile, text)]
    if not matches:
        raise ProfileError(
            f"There is no profile «{text}».",
            hint="«narthex profile list» shows them all; «narthex tune MODEL» makes one.",
        )
    return matches[0]


def _is_of(profile: Profile, text: str) -> bool:
    model = profile.model
    if not text:
        return False
    return text in (model.path, Path(model.path).name, model.identity) or text.lower() == model.name.lower()


def _profile(row: ProfileRow) -> Profile:
    try:
        return msgspec.json.decode(row.body, type=Profile)
    except msgspec.MsgspecError as error:
        raise JournalError(
            f"The stored profile «{row.name}» can't be read: {error}.",
            hint="Another version of narthex may have written it; that version can still export it.",
        ) from error
