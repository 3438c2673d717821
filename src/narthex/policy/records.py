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


class GatewayPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How `narthex serve` admits, waits and refuses."""

    listen: Annotated[str | None, kinds.TEXT, "Where it listens. 127.0.0.1:11435."] = None
    vram: Annotated[
        int | None, kinds.SIZE, "VRAM that it may give away. Without it: the card's, by NVML."
    ] = None
    starvation: Annotated[
        float, kinds.DURATION, "Nobody waits longer for a busy card: then it is drained for them. 60s."
    ] = 60.0
    residency: Annotated[
        float,
        kinds.DURATION,
        "A model that was loaded stays at least so long, unless nobody asks for it. 5s.",
    ] = 5.0
    keep_alive: Annotated[
        float,
        kinds.DURATION,
        "An idle model is unloaded after this time, unless its role says otherwise. 30m.",
    ] = 1800.0
    pins: Annotated[bool, kinds.SWITCH, "Whether a client's keep_alive of -1 is obeyed. false."] = False
    prefer_resident: Annotated[
        bool, kinds.SWITCH, "Take a role's fallback that is loaded rather than load its model. false."
    ] = False
    smaller: Annotated[
        bool, kinds.SWITCH, "After a load that ran out of memory: try the profile with less context. true."
    ] = True
    restore: Annotated[
        bool, kinds.SWITCH, "After an image or a study: load again what was loaded before. true."
    ] = True
    queue: Annotated[int, kinds.COUNT, "So many requests may wait. 512."] = 512
    wait: Annotated[float, kinds.DURATION, "So long a request may wait for its turn. 10m."] = 600.0
    remember: Annotated[
        float, kinds.DURATION, "How long a failed load is remembered: the next one hears it at once. 60s."
    ] = 60.0
    background: Annotated[
        str,
        kinds.BACKGROUND,
        "OpenWebUI's own calls, as titles: «after» people's, on the «resident» model, «as-asked». after.",
    ] = "after"
    task_header: Annotated[str, kinds.TEXT, "The header that tells an OpenWebUI task. X-Narthex-Task."] = (
        "X-Narthex-Task"
    )
    connect: Annotated[float, kinds.DURATION, "Time to connect to an engine. 5s."] = 5.0
    stall: Annotated[float, kinds.DURATION, "A load without any progress for so long has failed. 60s."] = 60.0
    first_token: Annotated[
        float, kinds.DURATION, "From the request at the engine to its first byte. 10m."
    ] = 600.0
    between: Annotated[float, kinds.DURATION, "Between two pieces of an answer. 2m."] = 120.0
    total: Annotated[float | None, kinds.DURATION, "For a whole answer. Unlimited."] = None
    drain: Annotated[float, kinds.DURATION, "At the end: time for answers under way. 30s."] = 30.0
    admin: Annotated[
        bool, kinds.SWITCH, "Whether pull, create, copy, delete, push and blobs are passed on. false."
    ] = False
    body: Annotated[int, kinds.SIZE, "The largest request. 64 MiB."] = 64 << 20
    hosts: Annotated[tuple[str, ...], kinds.NAMES, "Further names for the Host check."] = ()
    origins: Annotated[tuple[str, ...], kinds.NAMES, "Web pages that may ask, as http://localhost:3000."] = ()
    keys: Annotated[
        str | None, kinds.TEXT, "A file with NAME KEY on each line. Without it no key is asked."
    ] = None
    log: Annotated[
        bool, kinds.SWITCH, "Write a line for each request, without its text, for `narthex replay`. true."
    ] = True
    capture: Annotated[
        str | None, kinds.TEXT, "A folder for whole requests and answers. They are transcripts. Off."
    ] = None
    comfyui: Annotated[
        str,
        kinds.SHARING,
        "ComfyUI on this card: «off», a fixed «reserve», or a «lease» for each image. off.",
    ] = "off"
    comfyui_url: Annotated[str, kinds.TEXT, "ComfyUI's own address. http://127.0.0.1:8188."] = (
        "http://127.0.0.1:8188"
    )
    comfyui_listen: Annotated[
        str | None,
        kinds.TEXT,
        "A port of its own for ComfyUI's page, as 127.0.0.1:8189. It is also /comfyui/.",
    ] = None
    comfyui_vram: Annotated[int | None, kinds.SIZE, "What an image needs at most. Without it: as seen."] = (
        None
    )
    comfyui_linger: Annotated[
        float, kinds.DURATION, "After the last image: so long the card stays with ComfyUI. 3s."
    ] = 3.0


class RolePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which model does what. A line `NAME = "model"` or `NAME = ["model", "fallback"]` in [roles], or a table
    of its own. Clients of `narthex serve` ask for NAME as for any model; quality, fast, stable, code, embed
    are usual; any other name of letters, digits, «-», «_» and «.» is your own. A role goes before a model of
    its name; with its tag, as in `llama3:latest`, the model is meant."""

    name: str = ""
    model: Annotated[str | None, kinds.MODEL, "A model, a model file, or the name of a profile."] = None
    larger: Annotated[
        tuple[str, ...], kinds.NAMES, "Profiles with more context, for requests that need it."
    ] = ()
    fallbacks: Annotated[
        tuple[str, ...], kinds.NAMES, "What answers instead where it can't be loaded, in order."
    ] = ()
    keep_alive: Annotated[
        float | None, kinds.STAY, "An idle model stays so long; -1 for ever. As the gateway's."
    ] = None
    wait: Annotated[float | None, kinds.DURATION, "So long its requests may wait. As the gateway's."] = None


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
    gateway: GatewayPolicy = GatewayPolicy()
    roles: dict[str, RolePolicy] = {}  # by name, in the file's order; those of [models] are among them
    models: tuple[ModelPolicy, ...] = ()
    beside: tuple[TenantPolicy, ...] = ()

    def for_model(self, name: str) -> ModelPolicy:
        """What is said about one model, by any of its spellings; nothing is set where nothing is said."""
        found = next((each for each in self.models if same_model(each.name, name)), ModelPolicy(name=name))
        return msgspec.structs.replace(found, role=found.role or self._role_of(name))

    def role(self, name: str) -> RolePolicy | None:
        """The role of this name; case does not count."""
        return next((each for each in self.roles.values() if each.name.casefold() == name.casefold()), None)

    def tenant(self, name: str) -> TenantPolicy | None:
        """What is said about a tenant."""
        return next((each for each in self.beside if each.name == name), None)

    def value(self, key: str) -> Any:
        """One value by its dotted key, as in «policy.soak»; None where it is unset."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def _role_of(self, name: str) -> str | None:
        found = (role.name for role in self.roles.values() if role.model and same_model(role.model, name))
        return next(found, None)


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "defaults": Defaults,
    "policy": Rules,
    "ollama": OllamaPlace,
    "gateway": GatewayPolicy,
}
"""Tables that are there once."""
NAMED_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "roles": RolePolicy,
    "models": ModelPolicy,
    "beside": TenantPolicy,
}
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
