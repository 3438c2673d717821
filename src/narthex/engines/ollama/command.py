"""What a runner was told when it was started: by its command line, or by Ollama's log line of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_NAMES = {
    "--model": "model",
    "-m": "model",
    "--port": "port",
    "--ctx-size": "ctx",
    "-c": "ctx",
    "--parallel": "parallel",
    "-np": "parallel",
    "--batch-size": "batch",
    "-b": "batch",
    "--ubatch-size": "ubatch",
    "-ub": "ubatch",
    "--n-gpu-layers": "layers",
    "--gpu-layers": "layers",
    "-ngl": "layers",
    "--cache-type-k": "kv",
    "--kv-cache-type": "kv",
    "-ctk": "kv",
    "--flash-attn": "flash",
    "-fa": "flash",
    "--threads": "threads",
    "-t": "threads",
    "--load-mode": "load",
    "-lm": "load",
    "--no-mmap": "no-mmap",
    "--mmap": "mmap",
}
_FLASH = {"": "on", "1": "on", "true": "on", "0": "off", "false": "off"}


class RunnerCommand(msgspec.Struct, frozen=True, kw_only=True):
    """The setting of one runner. None is unknown, except ``gpu_layers``: there the runner chooses itself.

    From 0.11.5 to 0.24 the command line holds only model and port; the log tells the rest (``msg=load``).
    """

    path: str = ""  # of the model file, as the server sees it
    blob: str | None = None  # its digest, 64 hex digits
    port: int | None = None
    num_ctx: int | None = None  # of one slot
    parallel: int | None = None
    batch: int | None = None
    ubatch: int | None = None
    gpu_layers: int | None = None  # output layer counted
    kv_type: str | None = None
    flash_attn: str | None = None  # "on", "off", "auto"
    threads: int | None = None
    mmap: bool | None = None


def runner_command(argv: Sequence[str]) -> RunnerCommand:
    """From the words of a command line: of ``llama-server``, ``ollama runner`` or ``ollama_llama_server``."""
    given = dict(_options(argv))
    model = given.get("model", "")
    blob = _BLOB.search(model)
    told = "ctx" in given  # else the options come over HTTP
    ctx, parallel, batch = (_number(given.get(name)) for name in ("ctx", "parallel", "batch"))
    flash = given.get("flash")
    return RunnerCommand(
        path=model,
        blob=blob[1] if blob else None,
        port=_number(given.get("port")),
        num_ctx=ctx // (parallel or 1) if ctx is not None else None,
        parallel=parallel,
        batch=batch,
        ubatch=_number(given.get("ubatch")) or batch,  # one value before llama-server took both
        gpu_layers=_number(given.get("layers")),
        kv_type=given.get("kv", "f16") if told else None,
        flash_attn=(_FLASH.get(flash, flash) if flash is not None else "off") if told else None,
        threads=_number(given.get("threads")),
        mmap=_mmap(given) if told else None,
    )


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Option → its value. In the log a path with blanks is torn: words up to the next option belong to it."""
    name = ""
    words: list[str] = []
    for word in argv:
        if word.startswith("-") and not word[1:].isdecimal():
            if name in _NAMES:
                yield _NAMES[name], " ".join(words)
            name, _, value = word.partition("=")
            words = [value] if value else []
        else:
            words.append(word)
    if name in _NAMES:
        yield _NAMES[name], " ".join(words)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _mmap(given: dict[str, str]) -> bool:
    if "load" in given:
        return given["load"] in ("auto", "mmap", "mmap+mlock")
    return "no-mmap" not in given
