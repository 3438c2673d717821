"""The fake's log: Ollama's own lines and the runner's raw ones on stderr, the access log on stdout."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from narthex.testing.ollama.gowords import NS, access_duration, quoted

# Where each message comes from in 0.33.0-rc2. The numbers change with every release, so nobody may match
# on them; they are here because a line without a source is no line of Ollama.
_SOURCES = {
    "server config": "routes.go:1951",
    "total ": "images.go:919",
    "Listening on": "routes.go:2008",
    "discovering available GPUs...": "runner.go:60",
    "inference compute": "types.go:50",
    "vram-based default context": "routes.go:2058",
    "invalid environment variable": "config.go:263",
    "disabling mmap": "sched.go:1147",
    "using llama-server": "server.go:109",
    "requested context size": "server.go:114",
    "starting llama-server": "llama_server.go:433",
    "system memory": "sched.go:613",
    "gpu memory": "sched.go:620",
    "loading model via": "llama_server.go:1048",
    "waiting for llama-server to start": "llama_server.go:1295",
    "client connection closed": "llama_server.go:1301",
    "waiting for llama-server to become": "llama_server.go:1350",
    "llama-server started": "llama_server.go:1362",
    "llama-server process": "llama_server.go:1196",
    "llama-server terminated": "llama_server.go:1023",
    "template selection": "images.go:381",
    "model is missing": "images.go:798",
    "invalid option provided": "types.go:1007",
    "loaded runners": "sched.go:728",
    "Load failed": "sched.go:641",
    "llama-server load failed": "sched.go:652",
    "failed to load model metadata": "sched.go:529",
    "bad manifest": "manifest.go:218",
    "truncating input prompt": "llama_server.go:317",
    "quantizing model": "quantization.go:124",
    "request failed": "images.go:1314",
    "couldn't open model file": "images.go:723",
}
LEVELS = {"DEBUG": 0, "INFO": 1, "WARN": 2, "ERROR": 3}


class Log:
    """Writes whole lines at once, so that two sources never mix inside a line."""

    def __init__(self, level: str = "INFO") -> None:
        self.level = LEVELS[level]

    def debug(self, msg: str, **keys: object) -> None:
        """Only seen with ``OLLAMA_DEBUG=1``."""
        self._line("DEBUG", msg, keys)

    def info(self, msg: str, **keys: object) -> None:
        """``time=… level=INFO source=… msg=… key=value``; dots in keys are given as two underscores."""
        self._line("INFO", msg, keys)

    def warn(self, msg: str, **keys: object) -> None:
        """The same with ``level=WARN``."""
        self._line("WARN", msg, keys)

    def error(self, msg: str, **keys: object) -> None:
        """The same with ``level=ERROR``."""
        self._line("ERROR", msg, keys)

    def raw(self, line: str) -> None:
        """A line of the runner, as it is."""
        _write(sys.stderr, line)

    def access(self, status: int, ns: int, client: str, method: str, path: str) -> None:
        """gin's line, in local time, written when the request ends."""
        now = datetime.now().strftime("%Y/%m/%d - %H:%M:%S")
        spent = access_duration(ns)
        _write(sys.stdout, f'[GIN] {now} | {status:3d} | {spent:>13} | {client:>15} | {method:<7}  "{path}"')

    def _line(self, level: str, msg: str, keys: dict[str, object]) -> None:
        if LEVELS[level] < self.level:
            return
        source = next((place for start, place in _SOURCES.items() if msg.startswith(start)), "sched.go:500")
        words = [f"time={_now()}", f"level={level}", f"source={source}", f"msg={quoted(msg)}"]
        words += [f"{key.replace('__', '.')}={_value(value)}" for key, value in keys.items()]
        _write(sys.stderr, " ".join(words))


def _now() -> str:
    ns = time.time_ns()
    text = datetime.fromtimestamp(ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ns % NS // 1_000_000:03d}Z"


def _value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return quoted(text) if text else '""'


def _write(stream: object, line: str) -> None:
    stream.write(line + "\n")  # type: ignore[attr-defined]
    stream.flush()  # type: ignore[attr-defined]
