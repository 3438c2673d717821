"""What is known of containers from the evidence: which there are, and what they are named."""

from __future__ import annotations

import re

from narthex.doctor.evidence import Entry, Evidence, Reading
from narthex.doctor.sign import Sign

# A container's own words, whatever file they stand in.
MARKS = Sign(
    r"docker (?:run|exec|compose|start|restart|ps|inspect)\b|docker-compose|ollama/ollama|podman"
    r" (?:run|exec)|containerd"
    r"|kubectl |image: \S+",
    words=["docker", "ollama/ollama", "podman ", "containerd", "kubectl ", "image: "],
    first=40,
    last=40,
)
# nvidia-smi's head on the host: a driver that works. Its version and CUDA's stand in one row.
SMI = Sign(r"NVIDIA-SMI (?P<smi>\d[\d.]+) .*Driver Version: (?P<driver>[\d.]+)", words=["nvidia-smi "])
SMI_LIST = Sign(r"^GPU \d+: .+\(UUID: (?:GPU|MIG)-", words=["(uuid: "])
SIGNS = (MARKS, SMI, SMI_LIST)


def name_of(evidence: Evidence, role: str = "ollama") -> str:
    """The container's name, where one is known; else CONTAINER."""
    for row in evidence.all_readings("container"):
        if row.value and row.value.get("role") == role:
            return row.about
    for hit in evidence.hits(MARKS):
        found = re.search(r"docker exec (?:-\w+ )*([\w.-]+)|--name[= ]([\w.-]+)", hit.entry.plain)
        if found:
            return found[1] or found[2]
    return "CONTAINER"


def of_role(evidence: Evidence, *roles: str) -> list[Reading]:
    """Readings of containers with one of these roles."""
    rows = evidence.all_readings("container")
    return [row for row in rows if row.value and row.value.get("role") in roles]


def is_contained(evidence: Evidence, entry: Entry | None = None) -> bool:
    """Whether a line, or anything here, comes from a container."""
    if entry is not None and (entry.kind == "docker_log" or _looks_contained(entry.stream)):
        return True
    return (
        evidence.has_kind("docker_log") or evidence.has(MARKS) or bool(of_role(evidence, "ollama", "comfyui"))
    )


def host_gpu_works(evidence: Evidence) -> bool:
    """Whether the host sees the card: nvidia-smi answers, or NVML does."""
    return evidence.has(SMI, SMI_LIST) or (
        evidence.value("nvml.status") == "ok" and bool(evidence.value("gpu.count"))
    )


def _looks_contained(stream: str) -> bool:
    return bool(re.search(r"^pod/|-\d+$|/", stream))
