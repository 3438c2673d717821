"""Knobs → the command line of one llama-server build."""

from __future__ import annotations

from pathlib import Path

from narthex.engines._base import Engine, Failure
from narthex.knobs import BY_NAME, KnobValues
from narthex.outcomes import Outcome

LOOPBACK = "127.0.0.1"


class FlagMissing(Exception):
    """The build has no flag for a knob that was turned. Carries the :class:`Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.line)
        self.failure = failure


def arguments(engine: Engine, model_path: str | Path, knobs: KnobValues, port: int) -> list[str]:
    """The whole command line, program first. Raises :class:`FlagMissing`.

    The context given is ``num_ctx × parallel``, since llama-server shares ``-c`` among its slots. With
    ``gpu_layers`` set, the engine's own placement (``-fit``) is switched off, so that a setting which does
    not fit fails instead of being changed without a word; with None the engine places the layers.
    """
    build = _Build(engine)
    return [
        engine.path,
        *engine.extra_args,
        "-m",
        str(model_path),
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        *knob_arguments(engine, knobs),
        *build.housekeeping(),
    ]


def knob_arguments(engine: Engine, knobs: KnobValues) -> list[str]:
    """Only what the knobs say: the part that a profile exports. Raises :class:`FlagMissing`."""
    build = _Build(engine)
    words = ["-c", str(knobs.num_ctx * knobs.parallel), "-b", str(knobs.batch), "-ub", str(knobs.ubatch)]
    words += build.need("parallel", ("-np", "--parallel"), str(knobs.parallel))
    words += _placement(build, knobs)
    words += _cache(build, knobs)
    words += _flash(build, knobs)
    if knobs.threads is not None:
        words += ["-t", str(knobs.threads), "-tb", str(knobs.threads)]
    return words + _mmap(build, knobs)


def _placement(build: _Build, knobs: KnobValues) -> list[str]:
    words: list[str] = []
    if knobs.gpu_layers is not None:
        words += build.need("gpu_layers", ("-ngl", "--n-gpu-layers"), str(knobs.gpu_layers))
        words += build.may(("-fit", "--fit"), "off")
    if knobs.cpu_moe:
        words += build.need("cpu_moe", ("-ncmoe", "--n-cpu-moe"), str(knobs.cpu_moe))
    return words


def _cache(build: _Build, knobs: KnobValues) -> list[str]:
    if knobs.kv_type == "f16":  # every build's default
        return []
    return [
        *build.need("kv_type", ("-ctk", "--cache-type-k"), knobs.kv_type),
        *build.need("kv_type", ("-ctv", "--cache-type-v"), knobs.kv_type),
    ]


def _flash(build: _Build, knobs: KnobValues) -> list[str]:
    """``-fa VALUE``, or the bare switch of builds before autumn 2025, where leaving it out means off."""
    if "flash-attn-value" in build.engine.traits:
        return build.need("flash_attn", ("-fa", "--flash-attn"), knobs.flash_attn)
    return build.need("flash_attn", ("-fa", "--flash-attn")) if knobs.flash_attn == "on" else []


def _mmap(build: _Build, knobs: KnobValues) -> list[str]:
    """``--load-mode`` since summer 2026; before that mapping was the default, and ``--no-mmap`` its end."""
    if knobs.mmap == "auto":
        return []
    mode = "mmap" if knobs.mmap == "on" else "none"
    if words := build.may(("-lm", "--load-mode"), mode):
        return words
    return build.need("mmap", ("--mmap",) if knobs.mmap == "on" else ("--no-mmap",))


class _Build:
    """What one build can be told."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def need(self, knob: str, names: tuple[str, ...], *values: str) -> list[str]:
        """The first of the names that this build knows, with its values. Raises :class:`FlagMissing`."""
        if words := self.may(names, *values):
            return words
        flags = " or ".join(names)
        line = f"{self.engine.kind} {self.engine.build} has no {flags}, which {BY_NAME[knob].flag} needs."
        raise FlagMissing(Failure(outcome=Outcome.UNSUPPORTED_FLAG, line=line))

    def may(self, names: tuple[str, ...], *values: str) -> list[str]:
        """The same, or nothing where the build knows none of the names."""
        name = next((name for name in names if name in self.engine.flags), None)
        return [] if name is None else [name, *values]

    def housekeeping(self) -> list[str]:
        """What makes a run measurable, and touches neither speed nor GPU memory.

        ``--cache-ram 0``: without it up to 8 GiB of main memory go to old prompts, which a trial never
        sends again. The prefix cache within a slot stays.
        """
        words = self.may(("-cram", "--cache-ram"), "0")
        words += self.may(("--no-ui", "--no-webui"))
        words += self.may(("--slots",))
        if "verbosity-levels" in self.engine.traits:
            words += self.may(("-lv", "--verbosity"), "4")
        return words
