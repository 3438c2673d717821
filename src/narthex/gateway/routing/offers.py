"""Offers from what there is: Ollama's models, profiles of the journal, and model files that are named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from narthex.engines._base import Engine
from narthex.engines.ollama.eras import has
from narthex.engines.ollama.names import same
from narthex.engines.ollama.options import against_parameters, options_for, unloadable
from narthex.gateway.offer import Offer
from narthex.gateway.routing.held import Held, Model, capabilities_of
from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.policy.names import full_name
from narthex.policy.records import ModelPolicy, Policy
from narthex.profiles.profile import Profile
from narthex.profiles.tuned import made_here

PLAIN_CTX = 8192
"""Context of a model file without a profile: OpenWebUI's tools alone take some 7,000 tokens."""

Need = Callable[[Inspection, KnobValues, Engine | None, bool], int | None]
"""What a setting takes: see :meth:`Needs.of`."""


class Listed(NamedTuple):
    """An offer, the names that lead to it first of all, and the model whose settings are its siblings."""

    offer: Offer
    names: tuple[str, ...]
    group: str


def ollama_offers(held: Held, profiles: Sequence[Profile], policy: Policy, need: Need) -> Iterator[Listed]:
    """For each model of an Ollama the setting that its plain name means, and one for each further profile.

    That setting is the newest proven profile's that this server can load, else the model's own table in
    ``narthex.toml``, else none: then Ollama's and the model's own hold. A tuned model that `narthex apply`
    made is no model of its own, but the way to its profile.
    """
    mine = [each for each in profiles if each.engine_kind == "ollama"]
    tuned = {tag.name: each for tag in held.tags for each in mine if made_here(each, tag)}
    maker = _OllamaMaker(held, policy, need, {each.name: name for name, each in tuned.items()})
    for tag in held.tags:
        if tag.name in tuned:
            continue
        model = held.model(tag)
        own = [
            each for each in mine if _is_of(each, model) and not unloadable(each.knobs, held.engine.limits)
        ]
        chosen = next((each for each in own if each.proven), None)
        if chosen is None:
            yield Listed(maker.plain(model), (tag.name,), full_name(tag.name))
        for profile in own:
            names = [profile.name, *(name for name, each in tuned.items() if each is profile)]
            if profile is chosen:
                names.insert(0, tag.name)
            offer = maker.of_profile(model, profile, tag.name if profile is chosen else profile.name)
            yield Listed(offer, tuple(names), full_name(tag.name))


class _OllamaMaker:
    def __init__(self, held: Held, policy: Policy, need: Need, tuned: dict[str, str]) -> None:
        self._held, self._policy, self._need, self._tuned = held, policy, need, tuned
        self._slots = held.engine.limits.fixed.get("parallel") if held.server.env_source else None

    def plain(self, model: Model) -> Offer:
        """By the policy's start point, or as Ollama and the model have it."""
        start = self._policy.for_model(model.tag.name)
        options = {
            name: value
            for name in ("num_ctx", "num_gpu", "num_batch", "num_thread")
            if (value := getattr(start, name)) is not None
        }
        knobs = model.own
        if knobs is not None and options:
            knobs = _laid_over(knobs, start, model.inspection)
        return self._offer(model, model.tag.name, model.tag.name, options, knobs)

    def of_profile(self, model: Model, profile: Profile, name: str) -> Offer:
        """With a profile's options; a tuned model carries them itself, for clients of /v1, too."""
        tag = self._tuned.get(profile.name)
        options: dict[str, Any] = {}
        if tag is None:
            slots = self._held.engine.limits.fixed.get("parallel", 1)
            options = options_for(profile.knobs, self._held.server.version, parallel=slots)
            options = against_parameters(options, model.parameters, profile.knobs)
        offer = self._offer(model, name, tag or model.tag.name, options, profile.knobs)
        seen = profile.vram_peak_bytes if self._held.has_card else None
        return msgspec.structs.replace(
            offer,
            need_bytes=seen or offer.need_bytes,
            need_source="soak" if seen else offer.need_source,
            profile=profile.name,
            proven=profile.proven,
        )

    def _offer(
        self, model: Model, name: str, asked: str, options: dict[str, Any], knobs: KnobValues | None
    ) -> Offer:
        held, tag = self._held, model.tag
        need = None
        if model.inspection is not None and knobs is not None:
            need = self._need(model.inspection, knobs, held.engine, held.has_card)
        return Offer(
            key=_key("ollama", asked, tag.digest, options, held.engine.variant),
            backend="ollama",
            name=name,
            model=asked,
            twin=f"ollama:{model.blob}",
            options=options,
            knobs=knobs,
            num_ctx=knobs.num_ctx if knobs else None,
            slots=None if "embedding" in model.capabilities else self._slots,
            need_bytes=need,
            need_source="planned" if need is not None else "unknown",
            elastic=knobs is None or knobs.gpu_layers is None,
            digest=tag.digest,
            capabilities=model.capabilities,
            refuses_long=has(held.server.version, "truncate"),
        )


class File(NamedTuple):
    """A model file that was looked at; ``names`` lead to it."""

    path: Path
    inspection: Inspection
    names: tuple[str, ...]


def file_offers(
    files: Iterable[File], profiles: Sequence[Profile], policy: Policy, need: Need, *, card: bool
) -> Iterator[Listed]:
    """For each model file the setting that its name means, and one for each further profile: for
    llama-server, which the gateway starts itself."""
    mine = [each for each in profiles if each.engine_kind == "llama-server"]
    for file in files:
        own = [each for each in mine if each.model.identity == file.inspection.identity]
        chosen = next((each for each in own if each.proven), None)
        if chosen is None:
            offer = _file_offer(file, file.names[0], plain_knobs(file, policy), need, card=card)
            yield Listed(offer, file.names, str(file.path))
        for profile in own:
            offer = _file_offer(file, profile.name, profile.knobs, need, card=card, profile=profile)
            names = (profile.name, *(file.names if profile is chosen else ()))
            yield Listed(offer, names, str(file.path))


def plain_knobs(file: File, policy: Policy) -> KnobValues:
    """The setting of a file without a profile: its table in ``narthex.toml``, else a moderate context."""
    start = next(
        (found for name in file.names if (found := policy.for_model(name)) != ModelPolicy(name=name)), None
    )
    knobs = KnobValues(num_ctx=min(PLAIN_CTX, file.inspection.context_train or PLAIN_CTX))
    return knobs if start is None else _laid_over(knobs, start, file.inspection)


def _file_offer(
    file: File, name: str, knobs: KnobValues, need: Need, *, card: bool, profile: Profile | None = None
) -> Offer:
    planned = need(file.inspection, knobs, None, card)
    seen = profile.vram_peak_bytes if profile is not None and card else None
    arguments = profile.engine_args if profile is not None else ()
    return Offer(
        key=_key("llama-server", str(file.path), file.inspection.identity, knobs.as_dict(), str(arguments)),
        backend="llama-server",
        name=name,
        model=str(file.path),
        twin="",
        knobs=knobs,
        num_ctx=knobs.num_ctx,
        slots=knobs.parallel,
        need_bytes=seen or planned,
        need_source="soak" if seen else "planned" if planned is not None else "unknown",
        elastic=knobs.gpu_layers is None,
        profile=profile.name if profile is not None else None,
        proven=profile is not None and profile.proven,
        capabilities=capabilities_of(file.inspection),
        engine_args=arguments,
    )


def _laid_over(knobs: KnobValues, start: ModelPolicy, inspection: Inspection | None) -> KnobValues:
    """A model's start point over what holds without it."""
    changes: dict[str, Any] = {}
    if start.num_ctx is not None:
        train = inspection.context_train if inspection else 0
        changes["num_ctx"] = min(start.num_ctx, train or start.num_ctx)
    if start.num_gpu is not None:
        layers = inspection.layers + 1 if inspection else start.num_gpu
        changes["gpu_layers"] = min(start.num_gpu, layers)
    if start.num_batch is not None:
        changes["batch"] = changes["ubatch"] = start.num_batch
    if start.num_thread is not None:
        changes["threads"] = start.num_thread
    return knobs.with_(**changes)


def _is_of(profile: Profile, model: Model) -> bool:
    """Whether a profile was made for this very file under this name."""
    if not same(profile.model.served_as, model.tag.name):
        return False
    if model.inspection is None:
        return True
    known = {model.inspection.identity, f"ollama:{model.blob}"}
    return bool(known & {profile.model.identity, f"ollama:{_digits(profile.model.path)}"})


def _digits(path: str) -> str:
    return Path(path).name.removeprefix("sha256-").removeprefix("sha256:") if path else "-"


def _key(backend: str, model: str, version: str, setting: dict[str, Any], variant: str) -> str:
    """Another key for whatever would be another load. What an Ollama holds for others is «ollama:NAME»."""
    words = msgspec.json.encode((model, version, sorted(setting.items()), variant))
    name = model if backend == "ollama" else Path(model).name
    return f"{backend}/{name}#{hashlib.sha256(words).hexdigest()[:8]}"
