"""ComfyUI: whether it answers, its memory, its queue, and how its last job ended. Nothing is sent to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from narthex.doctor.collect.asking import Answer, all_within, get
from narthex.doctor.collect.collected import Collected, gap, together
from narthex.doctor.collect.programs import is_comfyui
from narthex.doctor.collect.safe_env import safe_command
from narthex.doctor.collect.scope import Scope
from narthex.doctor.collect.spots import Spot, spots
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact
from narthex.doctor.redact import hide_secrets
from narthex.errors import NarthexError
from narthex.policy import load_policy
from narthex.units import format_size

NAME = "ComfyUI"
TIME_S = 8.0
PORT = 8188
_ANSWER_S = 2.0


def collect(scope: Scope) -> Collected:
    """Every ComfyUI that can be found. Nothing is said where there is none."""
    if not scope.is_this_machine:
        return Collected()
    found = all_within(3 * _ANSWER_S, [_looker(spot) for spot in find(scope)])
    return together(part for part in found if part is not None)


def find(scope: Scope) -> list[Spot]:
    """Where one may answer; looked for once a run."""
    return scope.once(
        "comfyui spots",
        lambda: spots(scope, "comfyui", ports=(PORT,), inside=PORT, is_one=is_comfyui, named=_named()),
    )


def _named() -> list[str]:
    try:
        tenant = load_policy().tenant("comfyui")
    except NarthexError:
        return []
    return [tenant.url] if tenant is not None and tenant.url else []


def _looker(spot: Spot) -> Callable[[], Collected]:
    return lambda: _look(spot)


def _look(spot: Spot) -> Collected:
    stats = get(f"{spot.url}/system_stats", _ANSWER_S)
    system = stats.record.get("system")
    if not isinstance(system, dict) or "comfyui_version" not in system:
        return _silent(spot, stats)
    queue = get(f"{spot.url}/queue", _ANSWER_S)
    history = get(f"{spot.url}/history?max_items=1", _ANSWER_S)
    version = str(system["comfyui_version"])
    readings = [
        Reading(
            name="comfyui.answers",
            about=spot.url,
            value=True,
            text=f"ComfyUI {version} answers at {spot.url} ({spot.source})",
        ),
        _stats(spot.url, version, system, stats.record),
        _queue(spot.url, queue),
        *_last_job(spot.url, history),
    ]
    return Collected(
        readings=tuple(readings), facts=(Fact(text=f"ComfyUI {version} answers at {spot.url}."),)
    )


def _silent(spot: Spot, answer: Answer) -> Collected:
    """Somebody else on a usual port is nobody's business."""
    if not spot.sure:
        return Collected()
    why = answer.error or "what answers there is no ComfyUI"
    text = f"no ComfyUI at {spot.url} ({spot.source}): {why}"
    return Collected(readings=(Reading(name="comfyui.answers", about=spot.url, value=False, text=text),))


def _stats(url: str, version: str, system: Mapping[str, Any], record: Mapping[str, Any]) -> Reading:
    devices = record.get("devices")
    card: Mapping[str, Any] = devices[0] if isinstance(devices, list) and devices else {}
    argv = safe_command([str(word) for word in system.get("argv") or ()])
    value: dict[str, Any] = {
        "version": version,
        "argv": argv,
        "device": card.get("type"),
        "ram_free_bytes": system.get("ram_free"),
        "vram_total_bytes": card.get("vram_total"),
        "vram_free_bytes": card.get("vram_free"),
        "torch_vram_bytes": card.get("torch_vram_total"),
    }
    free, total = format_size(value["vram_free_bytes"]), format_size(value["vram_total_bytes"])
    held = format_size(value["torch_vram_bytes"])
    text = (
        f"ComfyUI {version} at {url}, started as «{' '.join(argv)}»: "
        f"{free} of {total} free on {card.get('name', 'its device')}, its torch holds {held}"
    )
    return Reading(name="comfyui.stats", about=url, value=value, text=text)


def _queue(url: str, answer: Answer) -> Reading:
    rows = answer.record
    if "queue_running" not in rows:
        return gap("comfyui.queue", answer.error or f"{url}/queue gave no queue", url)
    running, pending = len(rows["queue_running"] or ()), len(rows.get("queue_pending") or ())
    text = f"the queue of {url}: {running} running, {pending} waiting"
    return Reading(name="comfyui.queue", about=url, value={"running": running, "pending": pending}, text=text)


def _last_job(url: str, answer: Answer) -> Iterator[Reading]:
    entry = next(reversed(answer.record.values()), None)
    if not isinstance(entry, dict):
        return
    status = entry.get("status") or {}
    messages = {str(row[0]): row[1] for row in status.get("messages") or () if len(row) > 1}
    last = list(messages.values())[-1] if messages else {}
    stamp = last.get("timestamp") if isinstance(last, dict) else None
    at = stamp / 1000 if isinstance(stamp, int | float) else None
    when = f" at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC" if at is not None else ""
    fault = messages.get("execution_error")
    if isinstance(fault, dict):
        node = f"{fault.get('node_type')} (node {fault.get('node_id')})"
        error = _one_line(f"{fault.get('exception_type', 'error')}: {fault.get('exception_message', '')}")
        value = {"status": "error", "error": error, "node": node, "at": at}
        text = f"the last job of {url} failed{when} in {node}: {error}"
    else:
        word = "interrupted" if "execution_interrupted" in messages else str(status.get("status_str", ""))
        value = {"status": word, "error": "", "node": "", "at": at}
        text = f"the last job of {url} ended{when}: {word}"
    yield Reading(name="comfyui.last_job", about=url, value=value, text=text)


def _one_line(text: str) -> str:
    return hide_secrets(" ".join(text.split()))[:600]
