"""Lines that are JSON: of Docker's json-file driver, of ``journalctl -o json``, of structured logs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from narthex.doctor.reading.carrier import Line, strip

_MESSAGES = ("msg", "message", "Message", "MSG")
_TIMES = ("time", "timestamp", "ts", "@timestamp", "asctime")
_STREAMS = ("container_name", "com.docker.compose.service", "service", "unit", "logger", "pod")
_RECORDS = ("time=", "level=", "[GIN]", "llama_", "llm_", "load_", "ggml_", "{")


def read_json(text: str) -> Line | None:
    """The message that a JSON line carries; None where it is none, or no log line."""
    try:
        row = msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    if "MESSAGE" in row:
        return _journal(row)
    if isinstance(row.get("log"), str):
        return _carried(row["log"], row)
    for name in _MESSAGES:
        if isinstance(row.get(name), str):
            message = row[name]
            return _carried(message, row) if message.startswith(_RECORDS) else _structured(row, name)
    return None


def _journal(row: dict[str, Any]) -> Line:
    """Of a line that is no text journald gives the bytes as numbers."""
    message = row["MESSAGE"]
    if isinstance(message, list):
        message = bytes(one for one in message if isinstance(one, int) and 0 <= one < 256).decode(
            "utf-8", "replace"
        )
    name = str(row.get("SYSLOG_IDENTIFIER") or row.get("_SYSTEMD_UNIT") or "").removesuffix(".service")
    if row.get("_TRANSPORT") == "kernel":
        name = "kernel"
    elif row.get("_PID"):
        name = f"{name}[{row['_PID']}]"
    micro = str(row.get("__REALTIME_TIMESTAMP") or row.get("_SOURCE_REALTIME_TIMESTAMP") or "")
    stamp = f"{micro[:-6]}.{micro[-6:]}" if micro.isdigit() and len(micro) == 16 else ""
    inner = strip(str(message or ""))
    return Line(inner.body, name, stamp, True)


def _carried(message: str, row: dict[str, Any]) -> Line:
    """A line of a program that something else put into JSON."""
    inner = strip(message.rstrip("\r\n"))
    if inner.body.startswith("{") and (nested := read_json(inner.body)) is not None:
        inner = nested
    return Line(inner.body, inner.stream or _stream(row), inner.stamp or _stamp(row), True)


def _structured(row: dict[str, Any], message: str) -> Line:
    """As Go's slog would have written it in text, so that the same patterns find it."""
    pairs = (
        f"{'msg' if name == message else name}={_value(value, always=name == message)}"
        for name, value in row.items()
    )
    return Line(" ".join(pairs), _stream(row), _stamp(row), True)


def _value(value: Any, always: bool = False) -> str:
    if not isinstance(value, str):
        value = msgspec.json.encode(value).decode()
    if always or not value or any(char in value for char in ' ="\n\t'):
        return f'"{value}"'
    return str(value)


def _stream(row: dict[str, Any]) -> str:
    cluster = row.get("kubernetes")
    if isinstance(cluster, dict) and isinstance(cluster.get("pod_name"), str):
        return f"{cluster['pod_name']}/{cluster.get('container_name', '')}".rstrip("/")
    return next((row[name].strip("/") for name in _STREAMS if isinstance(row.get(name), str)), "")


def _stamp(row: dict[str, Any]) -> str:
    for name in _TIMES:
        told = row.get(name)
        if isinstance(told, str):
            return told
        if isinstance(told, int | float) and told > 0:
            seconds = told / 1000 if told > 1e11 else told  # JavaScript counts milliseconds
            if seconds < 1e11:
                return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return ""
