"""The GPU is used by one version of Ollama and not by another: a suspicion, nothing more."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps
from narthex.doctor.story import Start, starts

REMEDY = Remedy(
    text="Go back to the version that works, keep it there, and tell Ollama's developers both "
    "versions and the driver.",
    commands=(
        Command(text="ollama --version; nvidia-smi", safe=True),
        Command(
            text="curl -fsSL https://ollama.com/install.sh | OLLAMA_VERSION=0.24.0 sh",
            safe=False,
            root=True,
            note="put in the version that worked; in Docker its tag",
        ),
    ),
    verify="The older version's start names the GPU on the same driver; the newer one's does not.",
    verify_commands=(steps.COMPUTE_LINE,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Two starts of different versions: the first with a GPU, the last without."""
    known = [start for start in starts(evidence) if start.devices and start.version]
    if not known or not known[-1].only_cpu:
        return
    bad = known[-1]
    good = next((start for start in reversed(known) if start.gpus and start.version != bad.version), None)
    if good is None or good.source != bad.source or _also_same_version(known, bad):
        return
    yield Finding(
        cause="driver_or_build_compat",
        title=f"The GPU is used by Ollama {good.version} and not by {bad.version}",
        severity=Severity.WARNING,
        confidence=0.4,
        evidence=(
            good.entry.quote(),
            good.gpus[0].entry.quote(),
            bad.entry.quote(),
            bad.devices[0].entry.quote(),
        ),
        why=f"Version {good.version} found {good.gpus[0].name or 'a GPU'}; version {bad.version} found none. "
        "Something else may have changed in between.",
        remedy=REMEDY,
        ruled_out=(
            RuledOut(
                cause="container_started_without_gpu", why="An earlier start of the same log had the GPU."
            ),
        ),
    )


def _also_same_version(known: list[Start], bad: Start) -> bool:
    """Whether the version that fails also worked here."""
    return any(start.gpus and start.version == bad.version for start in known)


RULE = Rule(
    slug="driver_or_build_compat",
    title="One version uses the GPU, another does not",
    area="gpu",
    meaning="On the same machine one version of Ollama finds the GPU and another does not. The build "
    "and the driver may "
    "not fit each other. It is a suspicion until both were tried on the same driver.",
    signature=("Two starts of different versions in one log: library=CUDA, then library=cpu",),
    certain="Put the other version in place, change nothing else, and compare the lines «inference compute».",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="driver_too_old", how="The log says so: the newer build wants a newer driver."),
        LookAlike(cause="igpu_not_used", how="Since 0.30 integrated GPUs are left alone."),
        LookAlike(cause="uvm_module_broken", how="Code 999: the same version fails as well."),
    ),
    check=check,
)
