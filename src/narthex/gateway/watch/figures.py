"""The figures of ``/metrics``: their names, kinds, labels and meanings stand here once."""

from __future__ import annotations

from typing import Literal

import msgspec

# Seconds. Loads and waits reach minutes, a warm answer's first byte milliseconds.
WAIT_S = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST_BYTE_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
LOAD_S = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
RATE_TPS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0)  # tokens per second


class Figure(msgspec.Struct, frozen=True):
    """One figure. A counter's name ends in ``_total``; a histogram has the upper ends of its buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Figure(
    "narthex_requests_total",
    "counter",
    "Requests that ended, by API, role, status and cause of failure; status 499: the client left.",
    ("api", "role", "status", "cause"),
)
ERRORS = Figure(
    "narthex_errors_total",
    "counter",
    "Requests that failed and loads that failed, by cause.",
    ("cause",),
)
INSTEAD = Figure(
    "narthex_substitutions_total",
    "counter",
    "Requests that something else than their first choice answered, by role and by what ran.",
    ("role", "model"),
)
WAITED = Figure(
    "narthex_waited_seconds",
    "histogram",
    "How long requests waited for their turn, a load included, by rank.",
    ("rank",),
    WAIT_S,
)
FIRST_BYTE = Figure(
    "narthex_first_byte_seconds",
    "histogram",
    "From the request at the engine to the first byte of its answer, by model.",
    ("model",),
    FIRST_BYTE_S,
)
DECODE = Figure(
    "narthex_decode_tokens_per_second",
    "histogram",
    "Speed of answers as the engine tells it, by model.",
    ("model",),
    RATE_TPS,
)
PROMPT_TOKENS = Figure("narthex_prompt_tokens_total", "counter", "Tokens of prompts, by model.", ("model",))
OUTPUT_TOKENS = Figure("narthex_output_tokens_total", "counter", "Tokens of answers, by model.", ("model",))
LOADS = Figure(
    "narthex_loads_total",
    "counter",
    "Models loaded, by model and by the client whose request came first.",
    ("model", "client"),
)
LOAD = Figure("narthex_load_seconds", "histogram", "How long loads took, by model.", ("model",), LOAD_S)
LOADS_FAILED = Figure(
    "narthex_load_failures_total", "counter", "Loads that failed, by model and cause.", ("model", "cause")
)
EVICTIONS = Figure(
    "narthex_evictions_total",
    "counter",
    "Models unloaded, by model and by the client whose request caused it; empty: it was idle.",
    ("model", "client"),
)
SWAP_LOST = Figure(
    "narthex_swap_seconds_total",
    "counter",
    "Seconds in which the GPU served nobody, because a model had to go for another, by the client that "
    "caused it: the unload and the load after it.",
    ("client",),
)
QUEUE = Figure("narthex_queue_length", "gauge", "Requests that wait now, by rank.", ("rank",))
RUNNING = Figure("narthex_running_requests", "gauge", "Requests that a model works on now.", ("model",))
RESIDENT = Figure(
    "narthex_resident",
    "gauge",
    "1 for each model that is there now, by its state: loading, ready, unloading.",
    ("model", "state"),
)
VRAM = Figure(
    "narthex_vram_bytes",
    "gauge",
    "VRAM by tenant, as seen; «others» are programs that the gateway does not manage.",
    ("tenant",),
)
VRAM_TOTAL = Figure("narthex_vram_total_bytes", "gauge", "VRAM that the gateway may give away.")
VRAM_RESERVE = Figure("narthex_vram_reserve_bytes", "gauge", "VRAM of it that stays free.")
REMEMBERED = Figure(
    "narthex_remembered_failures", "gauge", "Models whose failed load is remembered, so that nobody waits."
)
INFO = Figure("narthex_build_info", "gauge", "1, with the version of narthex.", ("version",))
UP_SINCE = Figure("narthex_start_time_seconds", "gauge", "When the gateway started, since the epoch.")

FIGURES: tuple[Figure, ...] = (
    REQUESTS,
    ERRORS,
    INSTEAD,
    WAITED,
    FIRST_BYTE,
    DECODE,
    PROMPT_TOKENS,
    OUTPUT_TOKENS,
    LOADS,
    LOAD,
    LOADS_FAILED,
    EVICTIONS,
    SWAP_LOST,
    QUEUE,
    RUNNING,
    RESIDENT,
    VRAM,
    VRAM_TOTAL,
    VRAM_RESERVE,
    REMEMBERED,
    INFO,
    UP_SINCE,
)
"""In the order of the reference page."""
