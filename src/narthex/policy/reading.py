"""``load_policy``: from ``narthex.toml`` to a :class:`Policy`. Each complaint names file, line and key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from narthex.errors import UsageError
from narthex.policy.kinds import MODEL, role_name
from narthex.policy.lines import line_of
from narthex.policy.names import full_name, same_model
from narthex.policy.records import (
    NAMED_SECTIONS,
    SECTIONS,
    ModelPolicy,
    Policy,
    RolePolicy,
    TenantPolicy,
    keys_of,
)

FILE = "narthex.toml"
_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_QUOTES = 'A name with «:», «.» or «/» stands in quotes, as in [models."llama3.2:3b"].'


def find_config() -> Path | None:
    """The policy file: ``$NARTHEX_CONFIG``, ``./narthex.toml``, ``$XDG_CONFIG_HOME/narthex/narthex.toml``."""
    if chosen := os.environ.get("NARTHEX_CONFIG", "").strip():
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    for path in (Path(FILE), Path(base).expanduser() / "narthex" / FILE):
        if path.is_file():
            return path
    return None


def load_policy(path: Path | None = None) -> Policy:
    """The policy of ``path``, else of the file that :func:`find_config` finds, else an empty one.

    Raises UsageError where the file can't be read or holds nonsense.
    """
    path = path or find_config()
    if path is None:
        return Policy()
    try:
        state = path.stat()
        return _load(path.absolute(), (state.st_mtime_ns, state.st_size, state.st_ino))
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no file {path}.", hint="`narthex init` writes one; or unset NARTHEX_CONFIG."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text.", hint="Save it as UTF-8.") from error
    except OSError as error:
        raise UsageError(
            f"{path} can't be read: {error.strerror}.", hint="Check the file and its permissions."
        ) from error


@lru_cache(maxsize=4)
def _load(path: Path, state: tuple[int, int, int]) -> Policy:
    """``state`` changes with the file, so that what was read is read again only then."""
    return read_policy(path.read_text(encoding="utf-8-sig"), path)


def read_policy(text: str, path: Path | None = None) -> Policy:
    """The policy in a text. ``path`` is the file it came from. Raises UsageError."""
    return _Reader(text, path).policy()


class _Reader:
    def __init__(self, text: str, path: Path | None) -> None:
        self._text = text
        self._path = path
        self._name = str(path.name if path else FILE)

    def policy(self) -> Policy:
        document = self._document()
        self._known((), document, (*SECTIONS, *NAMED_SECTIONS))
        sections: dict[str, Any] = {
            name: kind(**self._section(kind, document.get(name, {}), (name,)))
            for name, kind in SECTIONS.items()
        }
        models = tuple(ModelPolicy(name=name, **rest) for name, rest in self._named(document, "models"))
        beside = tuple(TenantPolicy(name=name, **rest) for name, rest in self._named(document, "beside"))
        policy = Policy(
            path=str(self._path) if self._path else None,
            roles=self._roles(document),
            models=models,
            beside=beside,
            **sections,
        )
        self._check_models(policy)
        policy = msgspec.structs.replace(policy, roles=self._all_roles(policy))
        self._check_tenants(policy)
        return policy

    def _document(self) -> dict[str, Any]:
        import tomllib

        try:
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            words = str(error)
            place = _PLACE.search(words)
            where = f", line {place[1]}, column {place[2]}" if place and place[1] else ""
            raise UsageError(
                f"{self._name}{where}: this is no valid TOML: {_PLACE.sub('', words)}.",
                hint=f"Texts stand in double quotes. {_QUOTES}",
            ) from error
        except RecursionError:
            raise UsageError(
                f"{self._name}: it is nested too deep.", hint="No key takes a list of lists."
            ) from None

    def _section(self, kind: type[msgspec.Struct], table: Any, keys: tuple[str, ...]) -> dict[str, Any]:
        """The values of one table, read and checked."""
        if not isinstance(table, dict):
            self._fail(
                keys, f"{_dotted(keys)} must be a table.", f"Write [{_dotted(keys)}] and its keys below."
            )
        known = keys_of(kind)
        self._known(keys, table, known)
        values = {}
        for name, value in table.items():
            try:
                values[name] = known[name][0].read(value)
            except UsageError as error:
                self._fail((*keys, name), f"{_dotted((*keys, name))}: {error.message}", error.hint)
            except msgspec.ValidationError:
                self._fail(
                    (*keys, name),
                    f"{_dotted((*keys, name))} can't be {_shown(value)}.",
                    f"Write {known[name][0].words}.",
                )
        return values

    def _named(self, document: dict[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
        """The tables below ``[models]`` or ``[beside]``."""
        tables = document.get(section, {})
        if not isinstance(tables, dict):
            self._fail((section,), f"{section} must hold tables.", f'Write [{section}."NAME"] and its keys.')
        kind = NAMED_SECTIONS[section]
        return [(name, self._section(kind, table, (section, name))) for name, table in tables.items()]

    def _roles(self, document: dict[str, Any]) -> dict[str, RolePolicy]:
        """``[roles]``: a model, a model and its fallbacks, or a table below it."""
        rows = document.get("roles", {})
        if not isinstance(rows, dict):
            self._fail(("roles",), "roles must be a table.", 'Write [roles] and lines as fast = "MODEL".')
        found: dict[str, RolePolicy] = {}
        for name, value in rows.items():
            self._check_role_name(name, found)
            keys = ("roles", name)
            if isinstance(value, dict):
                role = RolePolicy(name=name, **self._section(RolePolicy, value, keys))
            else:
                model, *others = self._models_of(value, keys)
                role = RolePolicy(name=name, model=model, fallbacks=tuple(others))
            if role.model is None:
                self._fail(keys, f"the role «{name}» has no model.", 'Add model = "NAME".')
            found[name] = role
        return found

    def _check_role_name(self, name: str, others: Iterable[str]) -> None:
        keys = ("roles", name)
        try:
            role_name(name)
        except UsageError as error:
            self._fail(keys, f"{_dotted(keys)}: {error.message}", error.hint)
        if twin := next((other for other in others if other.casefold() == name.casefold()), None):
            self._fail(keys, f"«{name}» and «{twin}» are one role.", "Put both into one.")

    def _models_of(self, value: Any, keys: tuple[str, ...]) -> list[str]:
        """A model, or a model and its fallbacks."""
        try:
            names = [MODEL.read(each) for each in (value if isinstance(value, list) else [value])]
            if names:
                return names
        except UsageError as error:
            self._fail(keys, f"{_dotted(keys)}: {error.message}", error.hint)
        except msgspec.ValidationError:
            pass
        self._fail(
            keys,
            f"{_dotted(keys)} can't be {_shown(value)}.",
            f'Write {MODEL.words}; or a list, the first choice first, as in ["llama3.2:3b", "mistral-nemo"].',
        )

    def _known(self, keys: tuple[str, ...], table: dict[str, Any], known: Iterable[str]) -> None:
        """Refuse the first key that is not known, with the nearest one that is."""
        names = list(known)
        for name, value in table.items():
            if name in names:
                continue
            from difflib import get_close_matches

            near = get_close_matches(name, names, n=1)
            hint = f"Did you mean «{near[0]}»? " if near else ""
            if keys[:1] == ("models",) and isinstance(value, dict):
                hint = f"{_QUOTES} "
            place = f"in [{_dotted(keys)}]" if keys else "at the top"
            self._fail(
                (*keys, name), f"there is no «{name}» {place}.", f"{hint}Known here: {', '.join(names)}."
            )

    def _check_models(self, policy: Policy) -> None:
        seen: dict[str, str] = {}
        for model in policy.models:
            if other := seen.get(full_name(model.name)):
                self._fail(
                    ("models", model.name),
                    f"«{model.name}» and «{other}» are one model.",
                    "Put both tables into one.",
                )
            seen[full_name(model.name)] = model.name

    def _all_roles(self, policy: Policy) -> dict[str, RolePolicy]:
        """The roles, with those that stand in a model's own table."""
        roles = dict(policy.roles)
        for model in policy.models:
            if model.role is None:
                continue
            held = next((role for role in roles.values() if _alike(role.name, model.role)), None)
            if held is None:
                roles[model.role] = RolePolicy(name=model.role, model=model.name)
            elif not same_model(held.model or "", model.name):
                self._fail(
                    ("models", model.name, "role"),
                    f"the role «{model.role}» is given to «{held.model}» and to «{model.name}».",
                    "Leave one of the two.",
                )
        return roles

    def _check_tenants(self, policy: Policy) -> None:
        for tenant in policy.beside:
            comfyui = tenant.url is not None or tenant.workflow is not None
            if tenant.job is not None and comfyui:
                self._fail(
                    ("beside", tenant.name),
                    f"«{tenant.name}» has a job of its own and a ComfyUI's keys.",
                    "Leave url and workflow for a ComfyUI, or job and process for any other program.",
                )
            if tenant.job is None and not comfyui and tenant.name != "comfyui":
                self._fail(
                    ("beside", tenant.name),
                    f"narthex does not know how to give «{tenant.name}» work.",
                    'Add job = ["program", "argument"]; or url, if it is a ComfyUI.',
                )

    def _fail(self, keys: tuple[str, ...], message: str, hint: str) -> NoReturn:
        line = line_of(self._text, keys)
        where = f"{self._name}, line {line}" if line else self._name
        raise UsageError(f"{where}: {message}", hint=hint)


def _alike(a: str, b: str) -> bool:
    return a.casefold() == b.casefold()


def _dotted(keys: tuple[str, ...]) -> str:
    return ".".join(key if _BARE.fullmatch(key) else f'"{key}"' for key in keys)


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"«{text}»" if len(text) <= 60 else f"«{text[:57]}…»"
