"""What the numbers of NVIDIA's Xid lines mean, after NVIDIA's list (docs.nvidia.com/deploy/xid-errors)."""

from __future__ import annotations

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.signs import cuda, kernel

MEANINGS = {
    8: "the GPU stopped processing",
    13: "graphics engine exception",
    31: "a program read or wrote memory that is not mapped",
    32: "an invalid stream of commands",
    38: "driver firmware error",
    43: "a program's channel was stopped",
    44: "fault while switching programs",
    45: "clean-up after an earlier fault",
    48: "an ECC error of two bits",
    56: "display engine error",
    61: "the GPU's own controller stopped",
    62: "the GPU's own controller halted",
    63: "a memory row or page is taken out of use",
    64: "a memory row or page could not be taken out of use",
    68: "video decoder exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "many corrected ECC errors",
    94: "an ECC error that was contained",
    95: "an ECC error that was not contained",
    109: "time-out while switching programs",
    119: "the GPU's firmware (GSP) does not answer",
    120: "the GPU's firmware (GSP) failed",
    140: "an ECC error that could not be repaired",
    143: "the GPU could not be started",
    154: "the GPU needs a reset",
}
APP = frozenset({13, 31, 32, 43, 44, 45, 68, 69, 109})  # one process is to blame, as a rule
MEMORY = frozenset({48, 63, 64, 92, 94, 95, 140, 171, 172})
SILENT = frozenset({61, 62, 79, 119, 120, 143, 154})  # the card no longer answers


def with_numbers(evidence: Evidence, numbers: frozenset[int]) -> list[Hit]:
    """Xid lines of these numbers, in order."""
    return [hit for hit in evidence.hits(kernel.XID) if int(hit["number"]) in numbers]


def card_is_lost(evidence: Evidence) -> bool:
    """Whether any line says that a card no longer answers."""
    return bool(with_numbers(evidence, SILENT)) or evidence.has(
        kernel.FELL_OFF, cuda.SMI_LOST, kernel.LSPCI_GONE
    )


def in_words(hits: list[Hit]) -> str:
    """«79 (the GPU has fallen off the bus), 154 (the GPU needs a reset)»."""
    numbers = dict.fromkeys(int(hit["number"]) for hit in hits)
    return ", ".join(
        f"{number} ({MEANINGS[number]})" if number in MEANINGS else str(number) for number in numbers
    )


def card(hits: list[Hit]) -> str:
    """The PCI address that they name; "" where they name none."""
    return next((hit["pci"] for hit in hits if hit["pci"]), "")
