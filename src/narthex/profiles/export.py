"""A profile in the words of the programs that use it. Pure: nothing is asked, nothing is started.

llama-server's option and variable names are those of its ``--help`` (b10434 and b11434 agree on all that
are used here); Ollama's are those of its Modelfile reference.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

import msgspec

from narthex.errors import ProfileError
from narthex.profiles.profile import Profile

# knob of the engine → (option, environment variable)
_NAMES = {
    "model": ("--model", "LLAMA_ARG_MODEL"),
    "ctx": ("--ctx-size", "LLAMA_ARG_CTX_SIZE"),
    "layers": ("--n-gpu-layers", "LLAMA_ARG_N_GPU_LAYERS"),
    "batch": ("--batch-size", "LLAMA_ARG_BATCH"),
    "ubatch": ("--ubatch-size", "LLAMA_ARG_UBATCH"),
    "cache_k": ("--cache-type-k", "LLAMA_ARG_CACHE_TYPE_K"),
    "cache_v": ("--cache-type-v", "LLAMA_ARG_CACHE_TYPE_V"),
    "flash": ("--flash-attn", "LLAMA_ARG_FLASH_ATTN"),
    "slots": ("--parallel", "LLAMA_ARG_N_PARALLEL"),
    "threads": ("--threads", "LLAMA_ARG_THREADS"),
    "cpu_moe": ("--n-cpu-moe", "LLAMA_ARG_N_CPU_MOE"),
    "fit": ("--fit", "LLAMA_ARG_FIT"),
}


def export(profile: Profile, form: str) -> str:
    """The profile as text in one of :data:`FORMATS`. Raises ProfileError where the form can't say it."""
    if form not in FORMATS:
        raise ProfileError(f"There is no format «{form}».", hint="Formats are: " + ", ".join(FORMATS) + ".")
    if "\n" in profile.model.path:
        raise ProfileError("The model's path has a line break in it.", hint="Rename the file and tune again.")
    return FORMATS[form](profile)


def _settings(profile: Profile) -> dict[str, str]:
    """Values as llama-server takes them, by the short names of :data:`_NAMES`.

    The engine's context is shared by its slots, a profile's is of one slot: hence the product. With the
    placement given, the engine's own fitting has nothing to decide and is switched off.
    """
    knobs = profile.knobs
    values = {
        "model": os.path.abspath(profile.model.path),
        "ctx": str(knobs.num_ctx * knobs.parallel),
        "batch": str(knobs.batch),
        "ubatch": str(knobs.ubatch),
        "cache_k": knobs.kv_type,
        "cache_v": knobs.kv_type,
        "flash": knobs.flash_attn,
        "slots": str(knobs.parallel),
    }
    if knobs.gpu_layers is not None:
        values |= {"layers": str(knobs.gpu_layers), "fit": "off"}
    if knobs.threads is not None:
        values["threads"] = str(knobs.threads)
    if knobs.cpu_moe:
        values["cpu_moe"] = str(knobs.cpu_moe)
    return values


def _llama_server(profile: Profile) -> str:
    words = ["llama-server"]
    for name, value in _settings(profile).items():
        words += [_NAMES[name][0], value]
    return shlex.join([*words, *profile.engine_args]) + "\n"


def _env(profile: Profile) -> str:
    lines = [f"# {_title(profile)}", "# use: set -a; . ./THIS_FILE; set +a; llama-server"]
    if profile.engine_args:
        lines.append(f"# and on llama-server's command line: {shlex.join(profile.engine_args)}")
    lines += [f"{_NAMES[name][1]}={shlex.quote(value)}" for name, value in _settings(profile).items()]
    return "\n".join(lines) + "\n"


def _modelfile(profile: Profile) -> str:
    """A Modelfile, with what Ollama reads elsewhere as comments above it.

    Ollama starts its engine with one batch size for both ``-b`` and ``-ub``: the micro-batch goes there,
    since it is the one that sizes the buffers.
    """
    knobs = profile.knobs
    lines = [f"# {_title(profile)}", *(f"# {line}" for line in _ollama_server_side(profile))]
    lines += [
        f"FROM {os.path.abspath(profile.model.path)}",
        f"PARAMETER num_ctx {knobs.num_ctx}",
        f"PARAMETER num_batch {knobs.ubatch}",
    ]
    if knobs.gpu_layers is not None:
        lines.append(f"PARAMETER num_gpu {knobs.gpu_layers}")
    if knobs.threads is not None:
        lines.append(f"PARAMETER num_thread {knobs.threads}")
    return "\n".join(lines) + "\n"


def _ollama_server_side(profile: Profile) -> list[str]:
    """What a Modelfile can't say: settings of Ollama's server, for all of its models."""
    knobs = profile.knobs
    variables = [f"OLLAMA_KV_CACHE_TYPE={knobs.kv_type}", f"OLLAMA_NUM_PARALLEL={knobs.parallel}"]
    if knobs.flash_attn != "auto":
        variables.append(f"OLLAMA_FLASH_ATTENTION={int(knobs.flash_attn == 'on')}")
    if knobs.cpu_moe:
        variables.append(f"LLAMA_ARG_N_CPU_MOE={knobs.cpu_moe}")
    lines = ["Set in the environment of «ollama serve», since they count for all of its models:"]
    lines += [f"  {variable}" for variable in variables]
    if knobs.batch != knobs.ubatch:
        lines.append(
            f"num_batch is the micro-batch ({knobs.ubatch}): Ollama has one value for it and the batch "
            f"({knobs.batch} here)."
        )
    return lines


def _json(profile: Profile) -> str:
    return msgspec.json.format(msgspec.json.encode(profile), indent=2).decode() + "\n"


def _title(profile: Profile) -> str:
    """One line: what this is, and whether it is proven."""
    proof = f"proven by a soak of {profile.soak_s:.0f} s" if profile.proven else "not proven by a soak"
    demo = ", a demo" if profile.demo else ""
    engine = f"{profile.engine_kind} {profile.engine_build}"
    return f"narthex profile {profile.name} ({proof}{demo}), made with {engine}"


FORMATS: dict[str, Callable[[Profile], str]] = {
    "llama-server": _llama_server,
    "modelfile": _modelfile,
    "json": _json,
    "env": _env,
}
