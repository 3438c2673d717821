"""The doctor on what a real Ollama wrote and answered: failures are named, and a good day is healthy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narthex.testing.evidence import diagnosis_of

FAILURES = {
    "046-embed-on-completion-model": "embedding_failure",
    "051-v1-chat-missing-model": "model_not_found",
    "061-reload-num-ctx": "model_reload_thrash",
    "071-options-unknown-and-wrong": "bad_server_setting",
    "084-missing-model-generate": "model_not_found",
    "101-overflow-generate": "context_truncated",
    "104-overflow-chat-one-message": "context_truncated",
    "107-overflow-v1-chat": "context_truncated",
    "116-disconnect-during-load": "client_timeout_aborts_load",
    "121-port-in-use": "port_in_use",
    "146-thrash-max-loaded-models-1": "model_reload_thrash",
    "150-queue-overflow-cold": "queue_full",
    "154-env-kv-q8-without-flash": "bad_server_setting",
    "155-env-kv-type-unknown": "bad_server_setting",
    "156-env-invalid-values": "bad_server_setting",
    "172-fail-killed-while-loading": "host_oom_kill",
    "175-fail-no-llama-server": "runner_missing_library",
    "176-fail-illegal-instruction": "cpu_illegal_instruction",
    "177-fail-load-timeout-stalled": "model_load_timeout",
    "184-fail-gguf-truncated": "gguf_invalid_or_corrupt",
    "185-fail-gguf-bad-magic": "gguf_invalid_or_corrupt",
    "186-fail-gguf-unknown-architecture": "model_needs_newer_runtime",
    "188-create-truncated-gguf": "gguf_invalid_or_corrupt",
    "191-fail-blob-missing": "model_not_found",
}
HEALTHY = (
    "001-startup-normal",
    "009-create-from-gguf-stream",
    "030-load-only-generate",
    "036-chat-no-stream",
    "044-chat-tuned-no-stream",
    "048-v1-chat-no-stream",
    "053-keep-alive-0-unload",
    "055-keep-alive-1s-expiry",
    "056-ps-during-load",
    "065-no-reload-sampling",
    "067-num-ctx-over-train",
    "076-two-models-both-fit",
    "108-generation-runs-into-context-end",
    "110-token-repeat-abort-stream",
    "113-disconnect-mid-stream",
    "114-disconnect-non-stream",
    "117-after-disconnect-during-load",
    "122-sigterm-mid-stream",
    "131-startup-debug-1",
    "132-debug-load",
    "136-debug-second-model",
    "139-startup-debug-2",
    "140-debug-max-loaded-1",
    "147-num-parallel-4-load",
    "149-num-parallel-1-three-requests",
    "151-queue-warm-no-overflow",
    "153-env-context-flash-kv-q8",
    "190-gguf-flipped-weights",
    "206-startup-rpc-device",
    "207-rpc-default-all-layers",
)


def _texts(record: dict[str, Any]) -> dict[str, str]:
    """The log, and what clients were told: bodies with an error, streams that end in one, a terminal."""
    exchanges = record.get("exchanges") or [record]
    log = record.get("server_log") or [line for one in exchanges for line in one.get("server_log") or []]
    told = [json.dumps(one["body"]) for one in exchanges if "error" in (one.get("body") or ())]
    told += [row["line"] for one in exchanges for row in one.get("stream") or () if '"error"' in row["line"]]
    told += [text for name in ("stdout", "stderr", "output") if (text := _joined(record.get(name)))]
    texts = {"ollama_log": "\n".join(log), "client_error": "\n".join(told)}
    return {kind: text for kind, text in texts.items() if text}


def _joined(text: str | list[str] | None) -> str:
    return "\n".join(text) if isinstance(text, list) else text or ""


@pytest.mark.parametrize(("name", "cause"), FAILURES.items(), ids=FAILURES)
def test_a_recorded_failure_is_named(shared: Path, name: str, cause: str) -> None:
    record = json.loads((shared / f"ollama-wire/{name}.json").read_text())
    diagnosis = diagnosis_of((), False, **_texts(record))
    assert not [row for row in diagnosis.skipped if row.broke]
    assert [finding.cause for finding in diagnosis.findings if finding.is_trouble][:1] == [cause]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_recorded_good_day_is_healthy(shared: Path, name: str) -> None:
    record = json.loads((shared / f"ollama-wire/{name}.json").read_text())
    diagnosis = diagnosis_of((), False, **_texts(record))
    assert not [row for row in diagnosis.skipped if row.broke]
    assert diagnosis.healthy, [(finding.cause, finding.why) for finding in diagnosis.findings]
