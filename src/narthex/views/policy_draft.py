"""A first ``narthex.toml``: what was found, the house defaults, and suggestions that do not count yet."""

from __future__ import annotations

import json

import msgspec

from narthex.models.header import printable
from narthex.policy.suggest import SeenModel, fits, suggest_roles
from narthex.units import format_size


class FirstLook(msgspec.Struct, frozen=True, kw_only=True):
    """What ``narthex init`` found. ``host`` are lines for people; ``ollama`` is None where none answers."""

    host: tuple[str, ...] = ()
    vram_bytes: int | None = None  # of the cards that the server computes on
    ollama: str | None = None  # a line for people
    ollama_host: str | None = None  # its address, where it has to be named
    models: tuple[SeenModel, ...] = ()
    comfyui: str | None = None  # a line for people
    gaps: tuple[str, ...] = ()


_HEAD = """\
# narthex.toml: the house policy, as `narthex init` found this machine.
# Lines that begin with «#» do not count: notes, examples and suggestions. To use one, take the «#» away.
# `narthex settings` shows what holds right now, and where each value came from.
"""

_RULES = """\
# Where each model starts, and the baseline that each study is held against.
[defaults]
num_ctx = 4096
num_gpu = 19     # layers on the GPU
num_batch = 256

[policy]
# After a failure one thing gives way, in this order: context, GPU layers, batch.
backoff = ["ctx", "gpu", "batch"]
# Upward only if stable: the context rises one step after a soak at its present value. "off": it stays.
grow = "ctx"
soak = "150s"          # what a setting must survive before it counts as proven
# reserve = "512 MiB"  # VRAM that stays free; without it 128 MiB and the growth seen in soaks
# allow_kv = ["f16"]   # KV cache types that a study may use; without it f16 and q8_0
# repeats = 3          # timed turns in one trial
"""

_GATEWAY = """\
# `narthex serve`, the door before the engine: one address for both APIs, and order on the card.
# [gateway]
# listen = "127.0.0.1:11435"
# starvation = "60s"      # nobody waits longer for a busy card
# keep_alive = "30m"      # an idle model is unloaded after this time
# background = "after"    # OpenWebUI's titles and tags wait for people's own chats
# comfyui = "lease"       # an image gets the card when the model is idle; "reserve" or "off" else
"""

_REMOVAL = """\
# A candidate for removal. narthex only says so; it never deletes a model.
# [models."NAME"]
# remove = "why"
"""

_TENANT = """\
# Any other program on the card: a command that does one job and ends, for --beside blender.
# [beside.blender]
# process = "blender"
# job = ["blender", "-b", "scene.blend", "-a"]
"""


def policy_draft(look: FirstLook) -> str:
    """The text of the file. It loads, and says nothing that was not found or is not a house default."""
    blocks = [_HEAD + _found(look), _RULES, _ollama(look), _roles(look), _models(look), _REMOVAL]
    blocks += [_comfyui(look), _TENANT, _GATEWAY]
    return "\n".join(blocks)


def _found(look: FirstLook) -> str:
    lines = [*look.host, *([look.ollama] if look.ollama else []), *([look.comfyui] if look.comfyui else [])]
    return "#\n" + "".join(f"# Found: {_note(line)}\n" for line in lines) + _gaps(look)


def _gaps(look: FirstLook) -> str:
    return "".join(f"# Not known: {_note(gap)}\n" for gap in look.gaps)


def _ollama(look: FirstLook) -> str:
    if look.ollama_host is not None:
        host = f"host = {_quoted(look.ollama_host)}\n"
    else:
        host = '# host = "127.0.0.1:11434"    # only where narthex does not find it by itself\n'
    log = '# log = "docker:ollama"         # or journal:ollama.service, or file:PATH\n'
    return f'[ollama]\n{host}{log}# wait = "10m"    # how long a study waits for it when it goes down\n'


def _roles(look: FirstLook) -> str:
    lines = [
        "# Which model to take for what: quality, fast, stable, code, embed, and names of your own.",
        "# In a list the others answer where the first can't be loaded.",
        "[roles]",
    ]
    rows = suggest_roles(look.models, look.vram_bytes)
    lines += [f"# {row.role} = {_quoted(row.name)}    # {_note(row.why)}" for row in rows]
    lines.append('# stable = "NAME"    # narthex can\'t guess this: take the one that has survived a soak')
    return "\n".join(lines) + "\n"


def _models(look: FirstLook) -> str:
    """A table for each model, to be filled."""
    if not look.models:
        return (
            "# A start point of one model. The name stands in quotes.\n"
            '# [models."deepseek-r1:32b"]\n'
            "# num_ctx = 3500\n"
            '# note = "Stable with this context."\n'
        )
    lines = ["# Start points of single models: num_ctx, num_gpu, num_batch, num_thread, backoff, grow, note."]
    lines += [f"# [models.{_quoted(each.name)}]    # {_facts(each, look.vram_bytes)}" for each in look.models]
    return "\n".join(lines) + "\n"


def _facts(model: SeenModel, vram_bytes: int | None) -> str:
    if model.same_as:
        return f"the same file as {_note(model.same_as)}"
    words = [format_size(model.size_bytes), _note(model.words), "loaded now" if model.loaded else ""]
    if fits(model, vram_bytes) is False and not model.embeds:
        words.append("does not fit the card with a context: a part of it runs on the CPU")
    return ", ".join(word for word in words if word)


def _comfyui(look: FirstLook) -> str:
    head = (
        "# ComfyUI on the same card: `narthex tune MODEL --beside comfyui` keeps what its jobs need free.\n"
    )
    mark = "" if look.comfyui else "# "
    return (
        f"{head}{mark}[beside.comfyui]\n"
        f'{mark}url = "http://127.0.0.1:8188"\n'
        '# workflow = "FILE.json"    # saved with «Export (API)»; without it the newest finished one\n'
    )


def _quoted(text: str) -> str:
    """A TOML string: JSON's is one, but for a character that only TOML forbids and for half pairs."""
    shown = "".join(letter for letter in text if letter != "\x7f" and not "\ud800" <= letter <= "\udfff")
    return json.dumps(shown, ensure_ascii=False)


def _note(text: str) -> str:
    """Fit for a comment: one line, nothing that a terminal obeys."""
    return printable(text)
