"""Models that are loaded again: for other options, for other models, or because their time ran out."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]
Causes = Callable[..., list[str]]

NOON = datetime(2026, 8, 21, 12, 0, 0, tzinfo=UTC)
ONE, OTHER = ("sha256-" + digit * 64 for digit in "ab")


def _load(after_s: float, blob: str = ONE, ctx: int = 4096, batch: int = 512, era: str = "F") -> str:
    """A load as that era writes it, ``after_s`` after noon; it takes two seconds."""
    begun, ended = ((NOON + timedelta(seconds=after_s + more)).isoformat() for more in (0, 2))
    if era == "F":
        what, cmd = (
            "llama-server",
            f"llama-server --model /m/blobs/{blob} --port 1 -c {ctx} -np 1 -b {batch} -ub {batch}",
        )
        end = "llama-server started in 2.00 seconds"
    else:
        what = "llama server"
        cmd = f"ollama runner --model /m/blobs/{blob} --ctx-size {ctx} --batch-size {batch} --port 1"
        end = "llama runner started in 2.00 seconds"
    start = f'time={begun} level=INFO msg="starting {what}" cmd="/usr/bin/{cmd}"'
    return f'{start}\ntime={ended} level=INFO msg="{end}"'


def _gin(after_s: float, path: str = "/api/chat", client: str = "127.0.0.1", took: str = "4.5s") -> str:
    at = (NOON + timedelta(seconds=after_s)).strftime("%Y/%m/%d - %H:%M:%S")
    return f'[GIN] {at} | 200 | {took:>12} | {client:>15} | POST     "{path}"'


@pytest.mark.parametrize("era", ["D", "F"])
def test_two_clients_with_two_contexts(says: Says, era: str) -> None:
    lines: list[str] = []
    for turn in range(4):
        ctx, path, client = ((8192, "/api/chat", "172.18.0.3"), (4096, "/v1/chat/completions", "10.0.0.9"))[
            turn % 2
        ]
        lines += [_load(turn * 20, ctx=ctx, era=era), _gin(turn * 20 + 5, path, client)]
    (finding,) = says(ollama_log="\n".join(lines))
    assert finding.cause == "model_reload_thrash"
    assert finding.severity is Severity.WARNING
    for word in ("num_ctx", "4096", "8192", "172.18.0.3 on /api/chat", "10.0.0.9 on /v1/chat/completions"):
        assert word in finding.why


def test_two_models_that_take_turns(says: Says) -> None:
    (finding,) = says(
        ollama_log="\n".join(_load(turn * 15, blob=(ONE, OTHER)[turn % 2]) for turn in range(6))
    )
    assert finding.cause == "model_reload_thrash"
    assert "Taking turns" in finding.why


def test_a_client_whose_context_grows_with_every_request(says: Says) -> None:
    (finding,) = says(ollama_log="\n".join(_load(turn * 40, ctx=8192 + 512 * turn) for turn in range(5)))
    assert finding.cause == "model_reload_thrash"
    assert "num_ctx" in finding.why


def test_one_client_who_tries_a_larger_context_once(causes: Causes) -> None:
    assert causes(ollama_log=f"{_load(0)}\n{_load(60, ctx=8192)}\n") == []


def test_models_of_a_long_day_are_no_thrash(causes: Causes) -> None:
    text = "\n".join(_load(turn * 3600, blob=(ONE, OTHER)[turn % 2]) for turn in range(6))
    assert causes(ollama_log=text) == []


def test_a_restart_between_loads_is_no_reload(causes: Causes) -> None:
    start = 'level=INFO msg="Listening on 127.0.0.1:11434 (version 0.33.0)"'
    text = "\n".join(f"{start}\n{_load(turn * 30, ctx=(4096, 8192)[turn % 2])}" for turn in range(6))
    assert causes(ollama_log=text) == []


def test_memory_that_goes_up_and_down(causes: Causes) -> None:
    def line(after_s: float, free: str) -> str:
        at = (NOON + timedelta(seconds=after_s)).isoformat()
        what = "updated VRAM based on existing loaded models"
        return f'time={at} level=INFO msg="{what}" total="8.0 GiB" available="{free}"'

    swings = [
        (0, "0.6 GiB"),
        (4, "2.1 GiB"),
        (7, "3.8 GiB"),
        (11, "1.6 GiB"),
        (30, "3.5 GiB"),
        (34, "0.7 GiB"),
    ]
    assert causes(ollama_log="\n".join(line(*row) for row in swings)) == ["model_reload_thrash"]
    assert causes(ollama_log="\n".join(line(number, "3.8 GiB") for number in range(6))) == []


@pytest.mark.parametrize(("keep_alive", "pause"), [("", 305), ("10m0s", 640), ("30s", 33)])
def test_requests_just_over_the_keep_alive(says: Says, keep_alive: str, pause: int) -> None:
    env = f'level=INFO msg="server config" env="map[OLLAMA_KEEP_ALIVE:{keep_alive} OLLAMA_MODELS:/m]"\n'
    rows = "\n".join(f"{_load(turn * pause)}\n{_gin(turn * pause + 3, took='3.1s')}" for turn in range(4))
    (finding,) = says(ollama_log=(env if keep_alive else "") + rows)
    assert finding.cause == "keep_alive_unload_reload"
    assert "3 times" in finding.why


def test_a_pause_of_an_hour_now_and_then_is_none(causes: Causes) -> None:
    assert causes(ollama_log="\n".join(_load(turn * 4000) for turn in range(4))) == []


def test_a_model_kept_for_ever_never_expires(causes: Causes) -> None:
    env = 'level=INFO msg="server config" env="map[OLLAMA_KEEP_ALIVE:2562047h47m16.854775807s]"\n'
    assert "keep_alive_unload_reload" not in causes(
        ollama_log=env + "\n".join(_load(turn * 310) for turn in range(4))
    )


def test_the_clients_own_times_beside_an_unload(causes: Causes) -> None:
    times = "\n".join(
        f"Query {number}: {at}" for number, at in enumerate(("12:58:48", "13:03:49", "13:08:50"))
    )
    unload = 'level=WARN msg="gpu VRAM usage didn\'t recover within timeout" seconds=5.15'
    assert causes(client_error=times, ollama_log=unload) == ["keep_alive_unload_reload"]
    assert causes(client_error=times) == []


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("061-reload-num-ctx", ["model_reload_thrash"]),
        ("146-thrash-max-loaded-models-1", ["model_reload_thrash"]),
        ("065-no-reload-sampling", []),
        ("076-two-models-both-fit", []),
        ("148-num-parallel-4-six-requests", []),
        ("055-keep-alive-1s-expiry", []),
    ],
)
def test_real_logs_of_reloads(causes: Causes, shared: Path, name: str, trouble: list[str]) -> None:
    record = json.loads((shared / f"ollama-wire/{name}.json").read_text())
    assert causes(ollama_log="\n".join(record["server_log"])) == trouble
