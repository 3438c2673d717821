"""``holdings``: what one Ollama holds, gathered from its API, its store, the journal and the house policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from narthex.engines.ollama.api import Api, to_error
from narthex.engines.ollama.eras import has, since
from narthex.engines.ollama.names import is_cloud, same, short
from narthex.engines.ollama.records import ApiError, Resident, Server, Show, Tag
from narthex.engines.ollama.served import processor
from narthex.engines.ollama.shown import shown_blob
from narthex.engines.ollama.store import StoredModel, stored_models
from narthex.errors import JournalError, NarthexError
from narthex.policy.records import Policy
from narthex.profiles.profile import Profile
from narthex.units import format_count

_SHOWN = 64  # models that are asked for one by one, where neither list nor store tells enough


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is in memory now, as ``/api/ps`` tells it; None where this Ollama does not tell."""

    name: str  # that of the request which loaded it; other names over the blob share it
    processor: str | None  # "100% GPU"
    context: int | None  # tokens of one slot
    size_bytes: int
    vram_bytes: int | None
    expires_at: str  # RFC 3339; centuries ahead: for ever


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the list. None is unknown."""

    name: str
    size_bytes: int
    quantization: str | None
    family: str | None
    parameters: str | None  # "8.0B"
    capabilities: tuple[str, ...] | None
    format: str
    cloud: bool
    modified_at: str
    blob: str | None = None
    blob_gone: bool | None = None  # None: the store can't be looked at
    same_blob_as: str | None = None  # the first name over the same blob
    made_from: str | None = None  # the model it was created from
    loaded: Loaded | None = None
    profile: str | None = None  # the best one of this model: a proven one goes before others
    profile_proven: bool | None = None
    profile_engine: str | None = None  # "ollama"; "llama-server" where that is all there is for its file
    role: str | None = None  # of the house policy
    note: str | None = None
    removal: str | None = None  # why the policy calls it a candidate for removal


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``loaded_elsewhere`` are models in memory that the list does not hold any more."""

    models: tuple[Held, ...]
    unlisted: tuple[Loaded, ...] = ()
    gaps: tuple[str, ...] = ()


def holdings(server: Server) -> Holdings:
    """What a server holds, names over one blob beside each other. Raises NarthexError where it does not
    answer; what else can't be read is a gap."""
    api = Api(server.url)
    try:
        tags = api.tags()
    except ApiError as error:
        raise to_error(error, server.url, "list its models") from error
    gaps: list[str] = []
    residents = _residents(server, api, gaps)
    stored = _stored(server, gaps)
    shows = _shows(server, api, [tag for tag in tags if _needs_show(server, tag, stored)], gaps)
    rows = [_row(tag, stored.get(_key(tag.name)), shows.get(tag.name)) for tag in tags]
    rows = _grouped(rows)
    policy, profiles = _policy(gaps), _profiles(gaps)
    loaded = [_loaded(resident) for resident in residents]
    rows = [_with_record(_with_load(row, rows, loaded), stored, profiles, policy) for row in rows]
    known = {item.name for row in rows if row.loaded is not None for item in [row.loaded]}
    return Holdings(
        models=tuple(rows),
        unlisted=tuple(item for item in loaded if item.name not in known),
        gaps=tuple(gaps),
    )


def _key(name: str) -> str:
    try:
        return short(name).casefold()
    except NarthexError:
        return name.casefold()


def _residents(server: Server, api: Api, gaps: list[str]) -> tuple[Resident, ...]:
    if not has(server.version, "ps"):
        gaps.append(f"What is loaded is not known: Ollama tells it since {since('ps')}.")
        return ()
    try:
        return api.ps()
    except ApiError as error:
        gaps.append(f"What is loaded is not known: {error.text}.")
        return ()


def _stored(server: Server, gaps: list[str]) -> dict[str, StoredModel]:
    if server.store is None:
        return {}
    try:
        models, unreadable = stored_models(server.store)
    except NarthexError as error:
        gaps.append(error.message)
        return {}
    gaps += unreadable
    return {_key(model.name): model for model in models}


def _needs_show(server: Server, tag: Tag, stored: dict[str, StoredModel]) -> bool:
    """Whether only ``/api/show`` can tell the blob or what the model can do."""
    if is_cloud(tag):
        return False
    unsaid = tag.capabilities is None and has(server.version, "capabilities")
    return unsaid or _key(tag.name) not in stored


def _shows(server: Server, api: Api, tags: Sequence[Tag], gaps: list[str]) -> dict[str, Show]:
    found: dict[str, Show] = {}
    failed: list[str] = []
    for tag in tags[:_SHOWN]:
        try:
            found[tag.name] = api.show(tag.name)
        except ApiError as error:
            if error.lost:
                raise to_error(error, server.url, f"show {tag.name}") from error
            failed.append(f"{tag.name} ({error.text})")
    if failed:
        gaps.append(f"Ollama can't show {', '.join(failed)}.")
    if len(tags) > _SHOWN:
        more = format_count(len(tags) - _SHOWN, "model")
        gaps.append(f"Not looked at one by one: {more}, whose files are not known.")
    return found


def _row(tag: Tag, stored: StoredModel | None, show: Show | None) -> Held:
    details = tag.details
    capabilities = tag.capabilities
    if capabilities is None and show is not None:
        capabilities = show.capabilities
    return Held(
        name=tag.name,
        size_bytes=tag.size,
        quantization=details.quantization_level or None,
        family=details.family or None,
        parameters=details.parameter_size or None,
        capabilities=capabilities,
        format=details.format,
        cloud=is_cloud(tag),
        modified_at=tag.modified_at,
        blob=stored.blob if stored else shown_blob(show) if show else None,
        blob_gone=stored.gone if stored else None,
        made_from=details.parent_model or None,
    )


def _grouped(rows: list[Held]) -> list[Held]:
    """Names over one blob beside each other, the original first; else Ollama's order."""
    groups: dict[str, list[Held]] = {}
    for row in rows:
        groups.setdefault(row.blob or f"name:{row.name}", []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: row.made_from is not None)
    return [
        msgspec.structs.replace(row, same_blob_as=group[0].name if number else None)
        for group in groups.values()
        for number, row in enumerate(group)
    ]


def _loaded(resident: Resident) -> Loaded:
    return Loaded(
        name=resident.name,
        processor=processor(resident),
        context=resident.context_length,
        size_bytes=resident.size,
        vram_bytes=resident.size_vram,
        expires_at=resident.expires_at,
    )


def _with_load(row: Held, rows: Iterable[Held], loaded: Iterable[Loaded]) -> Held:
    """A runner serves every name over its blob, though the list shows the one that loaded it."""
    blobs = {other.name: other.blob for other in rows}
    for item in loaded:
        blob = next((found for name, found in blobs.items() if same(name, item.name)), None)
        if same(row.name, item.name) or (blob is not None and blob == row.blob):
            return msgspec.structs.replace(row, loaded=item)
    return row


def _policy(gaps: list[str]) -> Policy:
    from narthex.policy import load_policy

    try:
        return load_policy()
    except NarthexError as error:
        gaps.append(f"The house policy can't be read: {error.message}")
        return Policy()


def _profiles(gaps: list[str]) -> list[Profile]:
    from narthex.paths import journal_path

    if not journal_path().exists():
        return []
    from narthex.journal.journal import Journal
    from narthex.profiles.store import list_profiles

    try:
        with Journal.open() as journal:
            return list_profiles(journal)
    except JournalError as error:
        gaps.append(f"Profiles are not known: {error.message}")
        return []


def _with_record(
    row: Held, stored: dict[str, StoredModel], profiles: Iterable[Profile], policy: Policy
) -> Held:
    place = stored.get(_key(row.name))
    path = place.path if place else None
    mine = [each for each in profiles if _is_of(each, row, path)]
    profile = max(mine, key=lambda each: _weight(each, row), default=None)  # of equals the newest
    house = policy.for_model(row.name)
    return msgspec.structs.replace(
        row,
        profile=profile.name if profile else None,
        profile_proven=profile.proven if profile else None,
        profile_engine=profile.engine_kind if profile else None,
        role=house.role,
        note=house.note,
        removal=house.removal,
    )


def _weight(profile: Profile, row: Held) -> tuple[bool, bool, bool, bool]:
    """What makes a profile the one to show: made in Ollama, under this name, no demo, proven."""
    named = bool(profile.model.served_as) and same(profile.model.served_as, row.name)
    return profile.engine_kind == "ollama", named, not profile.demo, profile.proven


def _is_of(profile: Profile, row: Held, path: str | None) -> bool:
    model = profile.model
    if model.served_as and same(model.served_as, row.name):
        return True
    return (path is not None and model.path == path) or (
        row.blob is not None and model.identity == f"ollama:{row.blob}"
    )
