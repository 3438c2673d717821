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
from narthex.profiles.express import UNSET, Expressed, express, own_limits, server_variables
from narthex.profiles.profile import Profile
from narthex.profiles.tuned import modelfile, parameters_for

NEWEST = "0.0.0"  # how a self-built Ollama calls itself; its rules are the newest

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
    """A Modelfile, with what Ollama's server has to be told as comments above it."""
    limits = own_limits(profile.knobs) if profile.engine_kind == "ollama" else UNSET
    return modelfile_text(profile, express(profile, limits))


def modelfile_text(profile: Profile, found: Expressed) -> str:
    """The Modelfile of a profile as one server can have it. Raises ProfileError where that is not the
    profile's own setting: a setting that was not measured is not given out under its name."""
    if found.differences:
        raise ProfileError(
            f"Ollama can't express this profile: {'; '.join(found.differences)}.",
            hint=f"The nearest that it can: {found.knobs.describe()} (not measured). «--nearest» prints it; "
            + _server_hint(profile),
        )
    lines = [f"# {_title(profile)}"]
    if variables := server_variables(found.knobs):
        lines.append("# Needs in the environment of «ollama serve», where it counts for all models:")
        lines += [f"#   {name}={value}" for name, value in variables.items()]
    source = profile.model.served_as or os.path.abspath(profile.model.path)
    parameters = parameters_for(found.knobs, NEWEST, profile.base_parameters)
    return "\n".join(lines) + "\n" + modelfile(source, parameters)


def _server_hint(profile: Profile) -> str:
    variables = server_variables(profile.knobs)
    if not variables:
        return "«narthex tune --engine ollama» finds the best one for Ollama."
    listed = " ".join(f"{name}={value}" for name, value in variables.items())
    return f"«--server-wide» says that your server's environment holds {listed}."


def _json(profile: Profile) -> str:
    return msgspec.json.format(msgspec.json.encode(profile), indent=2).decode() + "\n"


def _title(profile: Profile) -> str:
    """One line: what this is, and whether it is proven."""
    proof = f"proven by a soak of {profile.soak_s:.0f} s" if profile.proven else "not proven by a soak"
    demo = ", a demo" if profile.demo else ""
    engine = " ".join(f"{profile.engine_kind} {profile.engine_build}".split())  # a server tells its version
    return f"narthex profile {profile.name} ({proof}{demo}), made with {engine}"


FORMATS: dict[str, Callable[[Profile], str]] = {
    "llama-server": _llama_server,
    "modelfile": _modelfile,
    "json": _json,
    "env": _env,
}
