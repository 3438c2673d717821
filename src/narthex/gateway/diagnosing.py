"""From an engine's words and log to a :class:`Trouble`: by exact words, else by the doctor's rules.

The doctor is imported on the first failure, in the thread that needs it: a gateway that meets none neither
waits for it nor keeps its rules in memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from narthex.engines.llama_exit import clean, telling_line
from narthex.gateway.known_errors import known_error
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.outcomes import Outcome
from narthex.units import format_size, sentence

if TYPE_CHECKING:
    from narthex.doctor.finding import Diagnosis, Finding

LOG_BYTES = 256 * 1024  # of each log its end: read by all rules in some 60 ms
_MOST_EVIDENCE = 4
_WHY_LETTERS = 400
_SAID_LETTERS = 300
# What can be the reason of one load or answer that failed. The doctor knows more: what a log also tells of
# downloads, other programs or slowness is no answer to this question.
_MEMORY: tuple[str, ...] = (
    "vram_oom_on_load",
    "context_too_large",
    "num_parallel_multiplies_kv",
    "compute_buffer_oom",
    "vram_oom_in_generation",
    "vram_contention_other_process",
    "vram_contention_comfyui_ollama",
    "vram_not_recovered",
    "host_oom_kill",
    "host_ram_insufficient",
)
_OTHERS: tuple[str, ...] = (
    "bad_server_setting",
    "container_gpu_lost_cgroup",
    "container_started_without_gpu",
    "cpu_illegal_instruction",
    "cpu_no_avx",
    "disk_full",
    "driver_library_mismatch",
    "driver_not_loaded",
    "driver_or_build_compat",
    "driver_too_old",
    "embedding_failure",
    "gguf_invalid_or_corrupt",
    "gpu_arch_not_in_build",
    "gpu_fell_off_bus",
    "gpu_hw_ecc",
    "gpu_xid_app_fault",
    "model_load_hangs",
    "model_load_timeout",
    "model_needs_newer_runtime",
    "model_not_found",
    "models_dir_permission",
    "port_in_use",
    "rocm_gpu_unsupported",
    "rocm_host_fault",
    "runner_crash_bug",
    "runner_missing_library",
    "suspend_resume_gpu_lost",
    "uvm_module_broken",
)
# Where no rule has an answer the engine's own end has: the cause, and its way out.
_BY_OUTCOME: dict[Outcome, tuple[str, str]] = {
    Outcome.OUT_OF_MEMORY: ("vram_oom_on_load", "Ask for less context, or see what fits: {plan}."),
    Outcome.OUT_OF_MEMORY_COMPUTE: (
        "vram_oom_in_generation",
        "Ask for less context or a smaller batch; `narthex tune {model}` proves what holds.",
    ),
    Outcome.KILLED_BY_KERNEL: (
        "host_oom_kill",
        "Take a smaller context or model, or end what else fills the main memory: {plan}.",
    ),
    Outcome.HOST_OUT_OF_MEMORY: (
        "host_ram_insufficient",
        "Take a smaller context or model, or end what else fills the main memory: {plan}.",
    ),
    Outcome.UNSUPPORTED_FLAG: ("bad_server_setting", "Take the setting back, or a newer engine."),
    Outcome.UNSUPPORTED_SETTING: ("bad_server_setting", "Take the setting back; the engine's words name it."),
    Outcome.UNSUPPORTED_ARCHITECTURE: ("model_needs_newer_runtime", "Take a newer engine: update it."),
    Outcome.CORRUPT_FILE: (
        "gguf_invalid_or_corrupt",
        "Fetch the model's file again; `narthex inspect {model}` tells what of it is damaged.",
    ),
    Outcome.FILE_MISSING: ("model_not_found", "Fetch the model again: its file is gone."),
    Outcome.MODEL_UNKNOWN: ("model_not_found", "Fetch the model: ollama pull {model}."),
    Outcome.DISK_FULL: ("disk_full", "Make room on the disk of the models."),
    Outcome.PORT_IN_USE: ("port_in_use", "Try again: another program took the port in that moment."),
    Outcome.CRASHED: ("runner_died", "Try again; where it dies again, `narthex doctor` reads its log."),
    Outcome.RUNNER_DIED: ("runner_died", "Try again; the next request loads it anew."),
    Outcome.SERVER_DOWN: ("ollama_unreachable", "Start it: sudo systemctl start ollama."),
    Outcome.QUEUE_FULL: ("queue_full", "Ask again in a moment."),
    Outcome.LOAD_TIMEOUT: ("model_load_timeout", "Set OLLAMA_LOAD_TIMEOUT higher, or find what is slow."),
    Outcome.STALLED: ("model_load_hangs", "See what it waits for: narthex doctor."),
    Outcome.TIMEOUT: ("model_load_hangs", "See what it waits for: narthex doctor."),
    Outcome.FAILED: ("engine_failed", "Its log tells more: narthex doctor."),
}
_STATUS: dict[str, int] = {
    "model_not_found": 404,
    "model_load_hangs": 504,
    "model_load_timeout": 504,
    "runner_crash_bug": 502,
    "runner_died": 502,
    "gpu_xid_app_fault": 502,
}
_AGAIN_S = {
    "ollama_unreachable": 5.0,
    "queue_full": 5.0,
    "runner_crash_bug": 1.0,
    "runner_died": 1.0,
    "port_in_use": 1.0,
}
# These pass, or hit one request alone; everything else would hit the same load again.
_PASSING = frozenset(
    {
        "ollama_unreachable",
        "queue_full",
        "vram_oom_in_generation",
        "port_in_use",
        "host_oom_kill",
        "runner_died",
    }
)
_LOOKS = ("nvidia-smi", "ps ", "journalctl", "free ", "dmesg", "ls ", "sudo dmesg", "ollama ps")


async def diagnosed(
    words: str,
    status: int | None,
    log: Sequence[tuple[str, bytes]] = (),
    *,
    model: str,
    offer: Offer | None = None,
    outcome: Outcome | None = None,
    free_bytes: int | None = None,
    requested_bytes: int | None = None,
) -> Trouble:
    """Why it failed. ``words``: what the engine or the connection said; ``status``: of the engine's answer,
    None where none came. ``log``: name and text of each log, of which the end is read. ``outcome``: what the
    engine's own module judged. ``free_bytes`` and ``requested_bytes``: of the memory in question."""
    if (known := known_error(words, status, model=model, offer=offer)) is not None:
        return known
    case = _Case(
        words=words,
        status=status,
        log=log,
        model=model,
        offer=offer,
        outcome=outcome,
        free_bytes=free_bytes,
        requested_bytes=requested_bytes,
    )
    return await asyncio.to_thread(case.trouble)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One failure."""

    words: str
    status: int | None
    log: Sequence[tuple[str, bytes]]
    model: str
    offer: Offer | None
    outcome: Outcome | None
    free_bytes: int | None
    requested_bytes: int | None

    def trouble(self) -> Trouble:
        """By the doctor's first finding that can be the reason, else by the outcome, else in general."""
        refused = self.status is not None and 400 <= self.status < 500 and self.outcome is None
        finding = None if refused else self._finding()
        if finding is not None:
            return self._of_finding(finding)
        if self.outcome in _BY_OUTCOME:
            return self._of_outcome(self.outcome)
        return self._in_general()

    def _finding(self) -> Finding | None:
        from narthex.doctor.finding import SURE

        found = [row for row in self._examined().findings if row.is_trouble and row.confidence >= SURE]
        wanted = _MEMORY if self.outcome is not None and self.outcome.is_memory else (*_MEMORY, *_OTHERS)
        if self.outcome in (Outcome.CORRUPT_FILE, Outcome.UNSUPPORTED_ARCHITECTURE):
            wanted = _OTHERS
        fitting = [row for row in found if row.cause in wanted]
        return next(iter(fitting), None)

    def _examined(self) -> Diagnosis:
        from narthex.doctor.diagnose import diagnose
        from narthex.doctor.reading.kinds import kind_of_text
        from narthex.doctor.reading.scanner import read_evidence
        from narthex.doctor.reading.text import Text
        from narthex.doctor.rules import RULES, SIGNS

        texts = [Text(kind="client_error", name="the answer", data=self.words.encode())] if self.words else []
        for name, data in self.log:
            tail = _tail(data)
            sample = (tail[:8192].decode("utf-8", "replace"), tail[-8192:].decode("utf-8", "replace"))
            texts.append(Text(kind=kind_of_text(sample, name), name=name, data=tail))
        return diagnose(read_evidence(texts, SIGNS), RULES)

    def _of_finding(self, finding: Finding) -> Trouble:
        steps = [row for row in finding.remedy.commands if not row.text.startswith(_LOOKS)][:2]
        told = "; ".join(row.text.replace("MODEL", self.model) for row in steps)
        remedy = sentence(finding.remedy.text) + (f" First: {sentence(told)}" if told else "")
        quotes = tuple(quote.text.strip()[:500] for quote in finding.evidence[:_MOST_EVIDENCE])
        return self._made(finding.cause, _short(finding.why), remedy, quotes)

    def _of_outcome(self, outcome: Outcome) -> Trouble:
        cause, way = _BY_OUTCOME[outcome]
        remedy = way.format(model=self.model, plan=f"narthex plan {self.model}")
        line = self._line()
        return self._made(cause, line, remedy, (line,) if line else ())

    def _in_general(self) -> Trouble:
        line = self._line()
        said = line or "the engine said nothing, and its log has no line about it"
        status = self.status if self.status is not None and 400 <= self.status < 500 else None
        if status is not None:
            message = f"The engine of «{self.model}» refused the request ({status}): {sentence(said)}"
            return Trouble(status, "engine_refused", message, evidence=(said,))
        way = "Try again; where it fails again, `narthex doctor` reads the logs of the machine."
        if self.status is None:
            return self._made("connection_lost", said, way, (line,) if line else (), status=502)
        return self._made("engine_failed", said, way, (line,) if line else (), status=500)

    def _made(
        self, cause: str, why: str, remedy: str, quotes: tuple[str, ...], *, status: int | None = None
    ) -> Trouble:
        return Trouble(
            status or _STATUS.get(cause, 503),
            cause,
            f"«{self.model}»: {self._with_figures(why)}",
            remedy=remedy,
            retry_after_s=_AGAIN_S.get(cause),
            lasting=cause not in _PASSING and status is None,
            figures=self._figures(),
            evidence=quotes,
        )

    def _with_figures(self, why: str) -> str:
        """The sentence, and in brackets the figures that it lacks."""
        parts = []
        if self.requested_bytes and format_size(self.requested_bytes) not in why:
            parts.append(f"{format_size(self.requested_bytes)} were asked for")
        if self.free_bytes is not None and "free" not in why and self._is_memory():
            parts.append(f"{format_size(self.free_bytes)} were free before")
        if self._is_memory() and (asked := self._asked()):
            parts.append(f"its setting: {asked}")
        return sentence(f"{why.rstrip('.')} ({'; '.join(parts)})" if parts else why)

    def _is_memory(self) -> bool:
        return self.requested_bytes is not None or (self.outcome is not None and self.outcome.is_memory)

    def _asked(self) -> str:
        if self.offer is None:
            return ""
        if self.offer.knobs is not None:
            return self.offer.knobs.describe()
        told = ", ".join(f"{name} {value}" for name, value in self.offer.options.items())
        return told or (f"num_ctx {self.offer.num_ctx}" if self.offer.num_ctx else "")

    def _figures(self) -> dict[str, int]:
        rows = {
            "requested_bytes": self.requested_bytes,
            "free_bytes": self.free_bytes,
            "num_ctx": self.offer.num_ctx if self.offer is not None else None,
            "need_bytes": self.offer.need_bytes if self.offer is not None else None,
        }
        return {name: value for name, value in rows.items() if value is not None}

    def _line(self) -> str:
        """What tells most: of the answer, else of the newest log."""
        if self.words.strip():
            lines = self.words.strip().splitlines()
            return (telling_line(lines) or clean(lines[0]))[:_SAID_LETTERS]
        for _, data in self.log:
            lines = _tail(data).decode("utf-8", "replace").splitlines()
            if line := telling_line(lines):
                return line[:_SAID_LETTERS]
        return ""


def _tail(data: bytes) -> bytes:
    """The end of a log, from a line's beginning on."""
    if len(data) <= LOG_BYTES:
        return data
    return data[-LOG_BYTES:].partition(b"\n")[2]


def _short(why: str) -> str:
    """Whole sentences, as many as fit."""
    if len(why) <= _WHY_LETTERS:
        return why
    cut = why[:_WHY_LETTERS]
    end = max((found.start() + 1 for found in re.finditer(r"[.!?](?= )", cut)), default=0)
    return cut[:end] if end else f"{cut.rstrip()}…"
