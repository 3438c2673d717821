"""The tables of ``narthex.toml``. A field's kind and meaning are declared here once: the reader checks
by them and the reference page is made from them."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, get_type_hints

import msgspec

from narthex.policy import kinds
from narthex.policy.kinds import Kind
from narthex.policy.names import same_model


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """The house defaults: where each model starts, and the baseline of each study."""

    num_ctx: Annotated[int | None, kinds.COUNT, "Context in tokens."] = None
    num_gpu: Annotated[int | None, kinds.LAYERS, "Layers on the GPU, the output layer counted."] = None
    num_batch: Annotated[int | None, kinds.COUNT, "Prompt tokens computed at once."] = None


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a study searches and what it must prove."""

    backoff: Annotated[
        tuple[str, ...] | None, kinds.ORDER, "After a failure one knob gives way, in this order."
    ] = None
    grow: Annotated[
        str | None, kinds.GROWTH, "«ctx»: the context rises a step only after a soak at its present value."
    ] = None
    reserve: Annotated[int | None, kinds.SIZE, "VRAM that stays free."] = None
    soak: Annotated[float | None, kinds.DURATION, "How long a setting must survive to count as proven."] = (
        None
    )
    allow_kv: Annotated[tuple[str, ...] | None, kinds.KV_TYPES, "KV cache types that a study may use."] = None
    repeats: Annotated[int | None, kinds.COUNT, "Timed turns in one trial."] = None


class OllamaPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where Ollama is, if not at its usual address."""

    host: Annotated[
        str | None, kinds.TEXT, "Its address, as in «127.0.0.1:11434». OLLAMA_HOST goes before it."
    ] = None
    log: Annotated[str | None, kinds.LOG, "Where its log is, if narthex does not find it."] = None
    wait: Annotated[float | None, kinds.DURATION, "How long to wait for it when it goes down. 10m."] = None


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """Which model does what."""

    quality: Annotated[str | None, kinds.MODEL, "The best answers that this machine can give."] = None
    fast: Annotated[str | None, kinds.MODEL, "Quick answers."] = None
    stable: Annotated[str | None, kinds.MODEL, "Never fails, if need be with a small context."] = None
    code: Annotated[str | None, kinds.MODEL, "Writes programs."] = None
    embed: Annotated[str | None, kinds.MODEL, "Makes embeddings."] = None


class ModelPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its start point and what is to be said about it. What is left out is as the house has it."""

    name: str = ""
    role: Annotated[str | None, kinds.ROLE, "The same as a line in [roles]."] = None
    num_ctx: Annotated[int | None, kinds.COUNT, "Context to start from, in tokens."] = None
    num_gpu: Annotated[int | None, kinds.LAYERS, "GPU layers to start from."] = None
    num_batch: Annotated[int | None, kinds.COUNT, "Batch to start from."] = None
    num_thread: Annotated[int | None, kinds.COUNT, "CPU threads."] = None
    backoff: Annotated[tuple[str, ...] | None, kinds.ORDER, "Its own back-off order."] = None
    grow: Annotated[str | None, kinds.GROWTH, "Its own rule for a growing context."] = None
    note: Annotated[str | None, kinds.TEXT, "For people: what one should know about it."] = None
    remove: Annotated[
        bool | str, kinds.REMOVAL, "A candidate for removal. narthex says so and removes nothing."
    ] = False

    @property
    def removal(self) -> str | None:
        """Why it is a candidate for removal; None where it is none."""
        if isinstance(self.remove, str):
            return self.remove
        return (self.note or "marked in narthex.toml") if self.remove else None


class TenantPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Another program on the same card, for `--beside NAME`. With `job` narthex starts the job itself;
    else it is a ComfyUI, which is asked for one."""

    name: str = ""
    url: Annotated[str | None, kinds.TEXT, "ComfyUI: its address; default http://127.0.0.1:8188."] = None
    workflow: Annotated[
        str | None,
        kinds.TEXT,
        "ComfyUI: a workflow saved with «Export (API)». Without it: the newest one that it finished.",
    ] = None
    process: Annotated[
        str | None,
        kinds.TEXT,
        "Name of the process that holds the VRAM, if not the job or the server itself.",
    ] = None
    job: Annotated[
        tuple[str, ...] | None,
        kinds.COMMAND,
        "A command that does one job and ends; started without a shell.",
    ] = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file, checked. Without a file everything is unset."""

    path: str | None = None
    defaults: Defaults = Defaults()
    policy: Rules = Rules()
    ollama: OllamaPlace = OllamaPlace()
    roles: Roles = Roles()
    models: tuple[ModelPolicy, ...] = ()
    beside: tuple[TenantPolicy, ...] = ()

    def for_model(self, name: str) -> ModelPolicy:
        """What is said about one model, by any of its spellings; nothing is set where nothing is said."""
        found = next((each for each in self.models if same_model(each.name, name)), ModelPolicy(name=name))
        return msgspec.structs.replace(found, role=found.role or self._role_of(name))

    def tenant(self, name: str) -> TenantPolicy | None:
        """What is said about a tenant."""
        return next((each for each in self.beside if each.name == name), None)

    def value(self, key: str) -> Any:
        """One value by its dotted key, as in «policy.soak»; None where it is unset."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def _role_of(self, name: str) -> str | None:
        for role in kinds.ROLES:
            model = getattr(self.roles, role)
            if model is not None and same_model(model, name):
                return role
        return None


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "defaults": Defaults,
    "policy": Rules,
    "ollama": OllamaPlace,
    "roles": Roles,
}
"""Tables that are there once."""
NAMED_SECTIONS: dict[str, type[msgspec.Struct]] = {"models": ModelPolicy, "beside": TenantPolicy}
"""Tables with one below for each name."""


@lru_cache
def keys_of(section: type[msgspec.Struct]) -> dict[str, tuple[Kind, str]]:
    """Key → its kind and its meaning, in the order of the declaration."""
    hints = get_type_hints(section, include_extras=True)
    return {
        name: (hint.__metadata__[0], hint.__metadata__[1])
        for name, hint in hints.items()
        if hasattr(hint, "__metadata__")
    }
