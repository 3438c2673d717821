"""Looking for GPUs took longer than Ollama waits."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.sign import Sign

TIMED_OUT = Sign(
    r"failed to finish discovery before timeout|GPU discovery watchdog timed out"
    r"|llama-server discovery: timed out waiting for server startup"
    r"|failure during (?:llama-server )?GPU discovery\b.*context deadline exceeded"
)

REMEDY = Remedy(
    text="Restart Ollama once the machine has settled; let the driver keep the card awake, so that "
    "the first look "
    "at it is quick.",
    commands=(
        steps.RESTART_OLLAMA,
        Command(
            text="sudo nvidia-smi -pm 1",
            safe=True,
            root=True,
            note="persistence mode; for good: systemctl enable --now nvidia-persistenced",
        ),
        Command(
            text="sudo systemctl edit ollama    # [Unit] After=nvidia-persistenced.service",
            safe=True,
            root=True,
            note="where it happens at every boot: Ollama starts after the driver is awake",
        ),
        Command(
            text="OLLAMA_LLM_LIBRARY=cuda_v12",
            safe=False,
            note="one library to try instead of several, 30 s each; restart Ollama",
        ),
    ),
    verify="The next start's line «inference compute» names the GPU.",
    verify_commands=(
        Command(text="time nvidia-smi -L", safe=True, note="should take less than a second"),
        steps.COMPUTE_LINE,
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Timed out, and the CPU is used afterwards. What is used after it decides."""
    hits = evidence.hits(TIMED_OUT)
    hits = [hit for hit in hits if where.gpu_after(evidence, hit.entry) is None]
    hits = [hit for hit in hits if where.gpu_before(evidence, hit.entry) is None]
    if not hits or (where.any_gpu(evidence) and where.on_cpu(evidence, hits[0].entry) is None):
        return
    cpu = where.on_cpu(evidence, hits[0].entry)
    quotes = [hit.quote() for hit in hits[:3]]
    if cpu is not None:
        quotes.append(cpu.quote())
    yield Finding(
        cause="gpu_discovery_timeout",
        title="Ollama gave up looking for GPUs before they answered",
        severity=Severity.ERROR
        if cpu is not None
        else Severity.WARNING
        if _by_watchdog(hits)
        else Severity.INFO,
        confidence=0.85 if cpu is not None else 0.5 if _by_watchdog(hits) else 0.35,
        evidence=tuple(quotes),
        why=f"The search for GPUs ran into its time limit {len(hits)} times, and "
        + ("the CPU is used since." if cpu is not None else "nothing here tells what was used afterwards."),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(
                cause="gpu_not_visible", why="The library did not answer «none»; it did not answer in time."
            ),
        ),
    )


def _by_watchdog(hits: list[Hit]) -> bool:
    """A warning of the newer Ollama; the older one's line is of level INFO and often noise."""
    return any("level=WARN" in hit.entry.text or "watchdog" in hit.entry.plain for hit in hits)


RULE = Rule(
    slug="gpu_discovery_timeout",
    title="The search for GPUs timed out",
    area="gpu",
    meaning="At its start Ollama asks each of its libraries for GPUs and waits 30 seconds for each. "
    "On a busy machine, "
    "or with a card that sleeps deeply, that is too short, and it goes on with the CPU.",
    signature=(
        'failure during GPU discovery … error="failed to finish discovery before timeout", then library=cpu',
        "llama-server GPU discovery watchdog timed out … context deadline exceeded",
    ),
    certain="The line «inference compute» after it says library=cpu. If it names a GPU, the "
    "time-out was noise.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="healthy", how="A GPU is named after it: only one of several libraries was slow."),
        LookAlike(
            cause="gpu_fell_off_bus", how="The kernel log tells of a lost card; nvidia-smi hangs as well."
        ),
        LookAlike(
            cause="rocm_gpu_unsupported", how="The probe crashes at once («runner crashed») and is not slow."
        ),
    ),
    check=check,
    signs=(TIMED_OUT, *where.SIGNS),
    explains=("container_started_without_gpu",),
    overrules=("gpu_not_visible",),
)
