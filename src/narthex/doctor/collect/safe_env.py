"""Which variables and words of a service may be shown: those of a list, and of their values no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from narthex.doctor.redact import HIDDEN, hide_secrets, is_secret_name, safe_environment

_SHOWN = re.compile(
    r"(?:OLLAMA|CUDA|NVIDIA|GGML|LLAMA|HSA|ROCR|HIP|GPU|PYTORCH|COMFYUI|AIOHTTP_CLIENT|RAG|ENABLE|TASK_MODEL"
    r"|USE_CUDA|USE_OLLAMA|GIN)_[A-Z0-9_]*|CLI_ARGS|COMMANDLINE_ARGS|HOME|HOST|PORT|ENV|WEBUI_URL"
    r"|CORS_ALLOW_ORIGIN|OPENAI_API_BASE_URLS?|THREAD_POOL_SIZE|LD_LIBRARY_PATH"
)

_HOLDS_KEYS = "_API_CONFIGS"  # OpenWebUI's connections as JSON, with their keys and headers


def safe_env(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that matter to the doctor, without secrets by name and without secrets in values."""
    wanted = {
        name: env[name]
        for name in sorted(env)
        if _SHOWN.fullmatch(name) and not is_secret_name(name) and not name.endswith(_HOLDS_KEYS)
    }
    return safe_environment(wanted)


def safe_command(words: Sequence[str]) -> list[str]:
    """A command line without the values of options that hold secrets."""
    shown: list[str] = []
    hide = False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = is_secret_name(option.lstrip("-"))
        if hide:
            shown.append(HIDDEN)
        else:
            shown.append(f"{option}={HIDDEN}" if secret and equals else hide_secrets(word))
        hide = secret and not equals and word.startswith("-")
    return shown
