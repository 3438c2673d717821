"""``narthex models``: what an Ollama holds, what is loaded, and what narthex knows of each model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from narthex.cli.options import json_option, ollama_option
from narthex.models.header import printable
from narthex.units import format_size, sentence

if TYPE_CHECKING:
    from narthex.cli.holdings import Held, Holdings, Loaded
    from narthex.engines.ollama.records import Server

_FOREVER_DAYS = 20 * 365  # Ollama's own list says «Forever» from twenty years on
_HEAD = ("model", "size", "type", "family", "can", "loaded", "file", "profile")


@click.command("models")
@ollama_option
@json_option
def command(ollama: str | None, as_json: bool) -> None:
    """The models of an Ollama: size, type, what each can do, what is loaded, and the profile it has.

    Names over one file are told: they share one runner, and using one unloads the other.
    """
    from narthex.cli.holdings import holdings
    from narthex.cli.target import find_ollama
    from narthex.engines.ollama.discovery import find_servers

    server = find_ollama(ollama)
    others = [] if ollama else [each for each in find_servers() if each.url != server.url]
    found = holdings(server)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(as_data(server, others, found)), indent=2))
    else:
        click.echo(as_text(server, others, found))


def as_data(server: Server, others: list[Server], found: Holdings) -> dict[str, Any]:
    """What ``--json`` prints; fields may be added, never changed."""
    import msgspec

    return {
        "server": _server_data(server),
        "other_servers": [_server_data(each) for each in others],
        "models": [msgspec.to_builtins(model) for model in found.models],
        "loaded_but_not_listed": [msgspec.to_builtins(each) for each in found.unlisted],
        "gaps": [*server.gaps, *found.gaps],
    }


def _server_data(server: Server) -> dict[str, Any]:
    container = server.container
    return {
        "url": server.url,
        "version": server.version,
        "era": server.era,
        "source": server.source,
        "place": server.place,
        "unit": server.unit,
        "container": container and {"id": container.id, "name": container.name, "image": container.image},
        "store": server.store,
        "log": server.log or None,
    }


def as_text(server: Server, others: list[Server], found: Holdings) -> str:
    """What a person reads: the server, one row a model, and what is to be said about some of them."""
    from narthex.views.table import table
    from narthex.views.text import wrap

    lines = [*_server_lines(server), ""]
    if found.models:
        lines.append(table(_HEAD, [_cells(model) for model in found.models], right="lr"))
    else:
        lines.append("It holds no model yet. `ollama pull llama3.2` fetches one.")
    notes = [note for model in found.models for note in _notes(model)]
    notes += [
        f"{printable(each.name)} is loaded but no longer in the list ({_loaded_words(each)})."
        for each in found.unlisted
    ]
    notes += [
        f"Another Ollama answers at {each.url} ({each.version}); --ollama {each.url} lists its models."
        for each in others
    ]
    notes += [f"Unknown: {gap}" for gap in (*server.gaps, *found.gaps)]
    return "\n".join([*lines, *([""] if notes else []), *(wrap(printable(note), indent=2) for note in notes)])


def _server_lines(server: Server) -> list[str]:
    from narthex.engines.ollama.eras import era_of
    from narthex.engines.ollama.logs import open_log

    era = era_of(server.version)
    unit = f" ({server.unit})" if server.unit else ""
    container = f" («{printable(server.container.name)}»)" if server.container else ""
    places = {
        "process": f"a process on this machine{unit}",
        "container": f"a container on this machine{container}",
        "elsewhere": "not on this machine, or behind a tunnel",
    }
    log = open_log(server)
    rows = [
        ("Ollama", f"{server.version} at {server.url} (found by: {server.source})"),
        ("era", f"{era.letter}: Ollama {era.words}"),
        ("runs as", places.get(server.place, server.place)),
        ("files", server.store or "can't be read from here"),
        ("log", log.words if log else "can't be read from here"),
    ]
    return [f"{name:<8} {text}" for name, text in rows]


def _cells(model: Held) -> tuple[str, ...]:
    return (
        printable(model.name),
        "cloud" if model.cloud else format_size(model.size_bytes),
        printable(" ".join(word for word in (model.parameters, model.quantization) if word)) or "?",
        printable(model.family or "?"),
        "?" if model.capabilities is None else printable(", ".join(model.capabilities)) or "–",
        _loaded_words(model.loaded) if model.loaded else "",
        _file_words(model),
        _profile_words(model),
    )


def _profile_words(model: Held) -> str:
    if model.profile is None:
        return ""
    proven = "proven" if model.profile_proven else "not proven"
    engine = "" if model.profile_engine == "ollama" else f"for {model.profile_engine}, "
    return f"{model.profile} ({engine}{proven})"


def _file_words(model: Held) -> str:
    if model.same_blob_as:
        return f"same as {printable(model.same_blob_as)}"
    if model.cloud:
        return ""
    if model.blob is None:
        return model.format if model.format and model.format != "gguf" else "?"
    return f"{model.blob[:12]}{' (gone)' if model.blob_gone else ''}"


def _loaded_words(loaded: Loaded) -> str:
    parts = [
        loaded.processor or "placement unknown",
        f"ctx {loaded.context}" if loaded.context else "",
        _until(loaded.expires_at),
    ]
    return ", ".join(part for part in parts if part)


def _until(text: str) -> str:
    """«for 4 min», «for ever»; "" where the time can't be read."""
    from narthex.engines.ollama.names import parse_time

    when = parse_time(text)
    if when is None:
        return ""
    left = (when - datetime.now(UTC)).total_seconds()
    if left > _FOREVER_DAYS * 86400:
        return "for ever"
    if left <= 0:
        return "in use or ending"  # the time is stale while a request runs
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if left >= size:
            return f"for {left // size:.0f} {name}"
    return f"for {left:.0f} s"


def _notes(model: Held) -> list[str]:
    name, notes = printable(model.name), []
    if model.blob_gone:
        notes.append(
            f"{name}: its file is gone, so it can't be loaded; `ollama pull {name}` fetches it again."
        )
    role = f"role {model.role}" if model.role else ""
    if said := "; ".join(word for word in (role, model.note or "") if word):
        notes.append(sentence(f"{name}: {said}"))
    if model.removal:
        notes.append(sentence(f"{name} is a candidate for removal: {model.removal}"))
    return notes
