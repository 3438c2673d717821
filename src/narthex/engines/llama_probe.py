"""Asking a llama-server binary what it is: version, flags, devices. Nothing is loaded.

Every answer comes from the binary itself, because flags come and go between builds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from narthex.engines._base import Engine, EngineDevice
from narthex.engines.child import CannotStart, Child
from narthex.errors import EngineError
from narthex.units import MIB

KIND = "llama-server"
PROBE_S = 30.0  # a CUDA build may need seconds to wake the driver

_FLAG = re.compile(r"(?<![\w-])-{1,2}[A-Za-z][\w-]*")
_OPTION_LINE = re.compile(r"^ {0,8}-{1,2}\w")
_NUMBER = re.compile(r"^(\d+)(?:\.\d+)* \((\w+)\)")
_NAMED = re.compile(r"\(build (\d+), commit (\w+)\)")
_DEVICE = re.compile(r"^\s+(\S+): (.*) \((\d+) MiB, (\d+) MiB free\)\s*$")


class CannotRun(EngineError):
    """The binary does not run here: a missing library, another architecture, no permission."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The process environment for an engine.

    ``LLAMA_ARG_*`` is left out: such a variable changes a setting behind the back of the knobs. GGML's own
    variables and ``CUDA_VISIBLE_DEVICES`` are passed on. An abort shall not start a debugger for a
    backtrace: on a large process that takes longer than the trial.
    """
    base = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}
    return {**base, "GGML_NO_BACKTRACE": "1", **extra}


def left_out() -> tuple[str, ...]:
    """What :func:`environment` keeps from the engine, as gaps."""
    names = sorted(name for name in os.environ if name.startswith("LLAMA_ARG_"))
    if not names:
        return ()
    return (f"Environment: {', '.join(names)} is not passed to the engine, since knobs set it.",)


def probe(
    path: str | Path, source: str, extra_args: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> Engine:
    """Ask the binary. Raises :class:`CannotRun` with its own words when it does not run.

    ``extra_args`` go before ``--list-devices``, so that ``--rpc HOST:PORT`` shows its devices.
    """
    binary = Path(path).absolute()
    variables = environment(env or {})
    build = read_build(_ask([str(binary), "--version"], variables))
    help_text = _ask([str(binary), "--help"], variables)
    flags = read_flags(help_text)
    if "--model" not in flags:  # `ls` and `true` answer both questions, too
        raise CannotRun(
            f"{binary} is not a {KIND}: its --help knows no --model.",
            hint=f"Name the {KIND} binary of llama.cpp.",
        )
    devices, gaps = _devices(binary, extra_args, flags, variables)
    sibling = binary.with_name("llama-fit-params")
    return Engine(
        kind=KIND,
        path=str(binary),
        source=source,
        build=build,
        flags=flags,
        traits=read_traits(help_text),
        devices=devices,
        fit_params=str(sibling) if os.access(sibling, os.X_OK) else None,
        extra_args=extra_args,
        env=dict(env or {}),
        gaps=(*gaps, *left_out()),
    )


def read_build(text: str) -> str:
    """«b11434» from ``--version``, or what it says where it has no build number.

    Forms: ``version: 11434 (abc1234)``; ``version: 0.1.0-dev (build 11434, commit abc1234)``. Packagers that
    build from an archive leave the number at 0 or 1: then the commit tells builds apart.
    """
    found = re.search(r"version: (.+)", text)
    if not found:
        return "unknown"
    words = found[1].strip()
    number = _NAMED.search(words) or _NUMBER.match(words)
    if number is None:
        return words
    return f"b{number[1]}" if int(number[1]) > 1 else f"build {number[1]} ({number[2]})"


def read_flags(help_text: str) -> frozenset[str]:
    """Every flag that ``--help`` lists, short and long."""
    found: set[str] = set()
    for line in help_text.splitlines():
        if _OPTION_LINE.match(line):
            found.update(_FLAG.findall(re.split(r"\s{3,}(?=[^-\s])", line, maxsplit=1)[0]))
    return frozenset(found)


def read_traits(help_text: str) -> frozenset[str]:
    """What the flags mean in this build, where the name alone does not tell.

    ``flash-attn-value``: ``-fa`` takes on, off or auto (older builds: a bare switch).
    ``verbosity-levels``: ``-lv`` counts 1 error … 4 trace, and the buffer lines need 4 (older builds print
    them always, and a number above 0 adds debug noise).
    """
    traits = set()
    if re.search(r"--flash-attn\b[^\n]*\bauto\b", help_text):
        traits.add("flash-attn-value")
    if re.search(r"^\s*- 4: trace", help_text, re.MULTILINE):
        traits.add("verbosity-levels")
    return frozenset(traits)


def read_devices(text: str) -> tuple[EngineDevice, ...]:
    """The devices of ``--list-devices``: ``  CUDA0: NVIDIA H100 (81089 MiB, 80546 MiB free)``."""
    found = (match for line in text.splitlines() if (match := _DEVICE.match(line)))
    return tuple(EngineDevice(row[1], row[2], int(row[3]) * MIB, int(row[4]) * MIB) for row in found)


def _devices(
    binary: Path, extra_args: tuple[str, ...], flags: frozenset[str], env: dict[str, str]
) -> tuple[tuple[EngineDevice, ...], tuple[str, ...]]:
    if "--list-devices" not in flags:
        return (), ("Devices: this build has no --list-devices, so it does not tell what it computes on.",)
    try:
        text = _ask([str(binary), *extra_args, "--list-devices"], env)
    except CannotRun as error:
        return (), (f"Devices: {error.message}",)
    return read_devices(text), ()


def _ask(command: list[str], env: dict[str, str]) -> str:
    """Both outputs of a command that must end with 0; builds differ in which one they use."""
    name = Path(command[0])
    hint = f"Try «{command[0]} --version» by hand; narthex skips a binary that does not run."
    try:
        code, text = _run(command, env)
    except CannotStart as error:
        raise CannotRun(f"{name} can't be run: {error}.", hint=hint) from error
    if code is None:
        raise CannotRun(f"{name} did not answer {command[-1]} within {PROBE_S:.0f} s.", hint=hint)
    if code != 0:
        words = [line.strip() for line in text.splitlines() if line.strip()]
        why = words[-1] if words else "it says nothing"
        raise CannotRun(f"{name} {command[-1]} ended with {code}: {why}", hint=hint)
    return text


def _run(command: list[str], env: dict[str, str]) -> tuple[int | None, str]:
    """Exit code and what was said; the code is None where it hung. It never outlives narthex."""
    with Child(command, env=env, log=None) as child:
        try:
            answered = child.wait(PROBE_S)
        finally:  # it hangs, or Ctrl-C: nothing is lost by being firm
            child.kill()
        return child.exit_code if answered else None, "\n".join(child.output.head())
