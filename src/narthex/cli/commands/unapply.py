"""``narthex unapply``: take a tuned model out of Ollama again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from narthex.cli.bench import translated
from narthex.cli.options import ollama_option
from narthex.errors import ProfileError

if TYPE_CHECKING:
    from narthex.engines.ollama.api import Api
    from narthex.journal.journal import Journal
    from narthex.profiles.profile import Profile


@click.command()
@click.argument("profile")
@ollama_option
def command(profile: str, ollama: str | None) -> None:
    """Remove the tuned model that «narthex apply» made.

    PROFILE is the profile, or the tuned model's name. Only what narthex made, and nobody has changed since,
    is removed; your own model stays as it is.
    """
    from narthex.engines.ollama.api import Api
    from narthex.engines.ollama.discovery import find_server
    from narthex.journal.journal import Journal
    from narthex.profiles.store import save_profile

    with Journal.open() as journal:
        journal.must_be_writable()
        stored = _applied(journal, profile)
        assert stored.applied_as is not None
        api = Api(find_server(ollama or stored.applied_to).url)
        with translated(api, f"remove «{stored.applied_as}»"):
            words = _remove(api, stored)
        gone = msgspec.structs.replace(stored, applied_as=None, applied_to=None, applied_digest=None)
        save_profile(journal, gone)
    click.echo(words)


def _applied(journal: Journal, text: str) -> Profile:
    """The profile by its own name or by that of its tuned model."""
    from narthex.engines.ollama.names import same
    from narthex.errors import UsageError
    from narthex.profiles.store import list_profiles, load_profile

    for profile in list_profiles(journal):
        try:
            if profile.applied_as is not None and same(profile.applied_as, text):
                return profile
        except UsageError:  # no model can have this name; a profile may
            break
    profile = load_profile(journal, text)
    if profile.applied_as is None:
        raise ProfileError(
            f"The profile «{profile.name}» has no tuned model in Ollama.",
            hint=f"«narthex apply {profile.name}» makes one.",
        )
    return profile


def _remove(api: Api, profile: Profile) -> str:
    from narthex.engines.ollama.names import same
    from narthex.profiles.tuned import made_here, remove

    name = profile.applied_as
    assert name is not None
    there = next((tag for tag in api.tags() if same(tag.name, name)), None)
    if there is None and api.url != profile.applied_to:
        raise ProfileError(
            f"{api.url} has no «{name}».", hint=f"It was made at {profile.applied_to}; leave --ollama out."
        )
    if there is None:
        return f"«{name}» was gone already. {api.url} has no tuned model of this profile."
    if not made_here(profile, there):
        raise ProfileError(
            f"«{name}» was changed since narthex made it, so it is left alone.",
            hint=f"If you don't need it: ollama rm {name}",
        )
    remove(api, name)
    return f"«{name}» is removed from Ollama at {api.url}."
