"""``Settings``: what OLLAMA_* variables say, read as Ollama reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from narthex.testing.ollama.gowords import FOREVER_NS, NS, GoError, duration, parse_duration

_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_PASSED = (
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LLAMA_ARG_FIT",
    "LLAMA_ARG_FIT_TARGET",
    "NO_PROXY",
    "OLLAMA_EDITOR",
    "OLLAMA_IGPU_ENABLE",
    "OLLAMA_KV_CACHE_TYPE",
    "OLLAMA_LLM_LIBRARY",
    "ROCR_VISIBLE_DEVICES",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - origins, not an address to listen on
_APPS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")


@dataclass
class Settings:
    """The values in force. Durations are nanoseconds; ``flash_attn`` None means unset."""

    models: Path
    host: str = "127.0.0.1"
    port: int = 11434
    context_length: int = 0
    num_parallel: int = 1
    parallel_given: bool = False
    max_loaded: int = 0
    max_queue: int = 512
    keep_alive_ns: int = 300 * NS
    load_timeout_ns: int = 300 * NS
    flash_attn: bool | None = None
    kv_type: str = ""
    gpu_overhead: int = 0
    debug: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)  # what the runner inherits
    warnings: list[tuple[str, str, int]] = field(default_factory=list)  # variable, value, default

    def config_line(self) -> str:
        """The value of ``env=`` in the ``server config`` line: a Go map, keys sorted."""
        values = {name: self.environ.get(name, "").strip().strip("'\"") for name in _PASSED}
        values |= {
            "OLLAMA_CONTEXT_LENGTH": str(self.context_length),
            "OLLAMA_DEBUG": ("INFO", "DEBUG", "TRACE")[min(self.debug, 2)],
            "OLLAMA_DEBUG_LOG_REQUESTS": "false",
            "OLLAMA_FLASH_ATTENTION": "true" if self.flash_attn else "false",
            "OLLAMA_GO_TEMPLATE": "true",
            "OLLAMA_GPU_OVERHEAD": str(self.gpu_overhead),
            "OLLAMA_HOST": f"http://{self.host}:{self.port}",
            "OLLAMA_KEEP_ALIVE": duration(self.keep_alive_ns),
            "OLLAMA_KV_CACHE_TYPE": self.kv_type,
            "OLLAMA_LOAD_TIMEOUT": duration(self.load_timeout_ns),
            "OLLAMA_MAX_LOADED_MODELS": str(self.max_loaded),
            "OLLAMA_MAX_QUEUE": str(self.max_queue),
            "OLLAMA_MAX_TRANSFER_STREAMS": "4",
            "OLLAMA_MODELS": str(self.models),
            "OLLAMA_NOHISTORY": "false",
            "OLLAMA_NOPRUNE": "false",
            "OLLAMA_NO_CLOUD": "true",
            "OLLAMA_NUM_PARALLEL": str(self.num_parallel),
            "OLLAMA_ORIGINS": "[" + " ".join(_origins()) + "]",
            "OLLAMA_REMOTES": "[ollama.com]",
            "OLLAMA_SCHED_SPREAD": "false",
            "OLLAMA_VULKAN": "true",
        }
        return "map[" + " ".join(f"{name}:{values[name]}" for name in sorted(values)) + "]"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """From an environment. Nonsense gives the default, as in Ollama; ``warnings`` tells for numbers."""
    env = {name: value.strip().strip("'\"") for name, value in environ.items()}
    host, port = _address(env.get("OLLAMA_HOST", ""))
    settings = Settings(
        models=Path(env.get("OLLAMA_MODELS") or Path(env.get("HOME", "/")) / ".ollama" / "models"),
        host=host,
        port=port,
        kv_type=env.get("OLLAMA_KV_CACHE_TYPE", "").lower(),
        flash_attn=_flag(env.get("OLLAMA_FLASH_ATTENTION", "")),
        parallel_given=bool(env.get("OLLAMA_NUM_PARALLEL")),
        environ=dict(environ),
    )
    settings.num_parallel = _number(settings, env, "OLLAMA_NUM_PARALLEL", 1) or 1
    settings.context_length = _number(settings, env, "OLLAMA_CONTEXT_LENGTH", 0)
    settings.max_loaded = _number(settings, env, "OLLAMA_MAX_LOADED_MODELS", 0)
    settings.max_queue = _number(settings, env, "OLLAMA_MAX_QUEUE", 512)
    settings.gpu_overhead = _number(settings, env, "OLLAMA_GPU_OVERHEAD", 0)
    settings.keep_alive_ns = _span(env.get("OLLAMA_KEEP_ALIVE", ""), 300 * NS, negative=FOREVER_NS)
    settings.load_timeout_ns = _span(env.get("OLLAMA_LOAD_TIMEOUT", ""), 300 * NS, negative=FOREVER_NS)
    if settings.load_timeout_ns == 0:
        settings.load_timeout_ns = FOREVER_NS
    debug = env.get("OLLAMA_DEBUG", "")
    settings.debug = int(debug) if debug.isdigit() else int(bool(_flag(debug)))
    return settings


def _origins() -> list[str]:
    plain = [
        f"{scheme}://{host}{port}" for host in _LOCAL for port in ("", ":*") for scheme in ("http", "https")
    ]
    return [*plain, *_APPS]


def _flag(text: str) -> bool | None:
    """Unparsable text counts as true."""
    if not text:
        return None
    return text not in _FALSE


def _number(settings: Settings, env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if text.isdigit():
        return int(text)
    settings.warnings.append((name, text, default))
    return default


def _span(text: str, default: int, *, negative: int) -> int:
    """A duration or a number of seconds; anything else is the default, without a word."""
    if not text:
        return default
    try:
        value = parse_duration(text)
    except GoError:
        try:
            value = int(text) * NS
        except ValueError:
            return default
    return negative if value < 0 else min(value, FOREVER_NS)


def _address(text: str) -> tuple[str, int]:
    scheme, separator, rest = text.rpartition("://")
    default = {"http": 80, "https": 443}.get(scheme, 11434) if separator else 11434
    rest = rest.split("/", 1)[0]
    host, _, port = rest.rpartition(":") if rest.count(":") == 1 else (rest, "", "")
    return host or "127.0.0.1", int(port) if port.isdigit() and int(port) < 65536 else default
