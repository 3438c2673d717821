"""How a fake engine behaves: a model's :class:`Manner`, and the words in a prompt that change one answer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

_WORD = re.compile(rb"\[\[(\w+)(?: (\d+(?:\.\d+)?))?\]\]")


@dataclass(frozen=True)
class Manner:
    """One model's. Times are seconds, sizes bytes.

    ``load_fault``: "" none; "hang": nothing comes any more; "wedge": the same, and SIGTERM does not help;
    "oom": the card's refusal; "die": SIGKILL; "abort": GGML_ASSERT and SIGABRT; "corrupt": a bad file;
    "silent": exit 1 without a word; "500": only of an Ollama, its words for a start that failed.
    """

    load_s: float = 0.05
    unload_s: float = 0.0  # from SIGTERM to the end
    first_s: float = 0.0  # to the first byte of an answer
    interval_s: float = 0.0  # between two tokens
    tokens: int = 8
    model_bytes: int | None = None  # None: the file's size
    token_bytes: int = 0  # of the cache, for each token of the context
    compute_bytes: int = 0
    beside_bytes: int = 0  # what no buffer line tells, as a CUDA context
    layers: int = 33  # the output layer counted
    context_train: int = 131072
    embeds: bool = False  # it makes embeddings only
    load_fault: str = ""
    die_at: int = 0  # SIGKILL at this request, the first is 1; 0: never

    def vram(self, num_ctx: int, file_bytes: int) -> int:
        """All of a load with so many tokens of context."""
        model = file_bytes if self.model_bytes is None else self.model_bytes
        return model + self.token_bytes * num_ctx + self.compute_bytes + self.beside_bytes


_FIELDS = {field.name for field in fields(Manner)}


@dataclass(frozen=True)
class Scene:
    """What all fakes of one test share; see :func:`narthex.testing.fake_engine.set_scene`."""

    path: Path | None = None
    card: str | None = None
    record: str | None = None
    version: str = "0.33.0"  # of the fake Ollama
    manner: Manner = Manner()
    models: dict[str, dict[str, Any]] | None = None
    most_loaded: int = 3  # of the fake Ollama: OLLAMA_MAX_LOADED_MODELS

    def of(self, model: str) -> Manner:
        """A model's manner, by its name or its file's stem. A fault «once» is taken from its file here."""
        model = model.removesuffix(":latest")
        changes = dict((self.models or {}).get(model, {}))
        if self.path is not None:
            once = fault_file(self.path, model)
            try:
                taken = once.with_suffix(".taken")
                once.rename(taken)
                changes |= json.loads(taken.read_text())
                taken.unlink()
            except FileNotFoundError:
                pass
        return replace(self.manner, **{key: value for key, value in changes.items() if key in _FIELDS})


def read_scene(path: Path | str | None) -> Scene:
    """The scene's file as it is now; without one a plain engine without a card."""
    if path is None:
        return Scene()
    found = json.loads(Path(path).read_text())
    found["manner"] = Manner(**found.get("manner", {}))
    return Scene(path=Path(path), **found)


def fault_file(scene: Path, model: str) -> Path:
    """Where a fault for the next load of a model lies."""
    return scene.with_name(f"{scene.stem}.once.{model.replace('/', '_')}.json")


def words_of(body: bytes) -> dict[str, float]:
    """The words in double brackets, as in «[[tokens 20]] [[interval 0.05]] [[hang 3]]»; a word without a
    number is 0.

    ``tokens`` N, ``first`` and ``interval`` in seconds change the answer. A fault comes after N tokens:
    ``hang`` nothing more, ``break`` the connection ends, ``error`` an error in the stream, ``die`` SIGKILL,
    ``abort`` SIGABRT with words, ``oom`` CUDA's words while it computes. ``refuse`` N: an answer of that
    status.
    """
    if b"[[" not in body:
        return {}
    return {word.decode(): float(number or 0) for word, number in _WORD.findall(body)}
