"""Steps that several remedies of this area share."""

from __future__ import annotations

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command

SMI = Command(text="nvidia-smi", safe=True, argv=("nvidia-smi",))
SMI_LIST = Command(text="nvidia-smi -L", safe=True, argv=("nvidia-smi", "-L"))
COMPUTE_LINE = Command(
    text='journalctl -u ollama -b --no-pager | grep "inference compute" | tail -n 1',
    safe=True,
    note="in Docker: docker logs ollama 2>&1 | grep …; it must not say library=cpu",
)
STOP_OLLAMA = Command(
    text="sudo systemctl stop ollama", safe=False, root=True, note="requests in work are lost"
)
RESTART_OLLAMA = Command(
    text="sudo systemctl restart ollama", safe=False, root=True, note="in Docker: docker restart ollama"
)
REBOOT = Command(
    text="sudo reboot", safe=False, root=True, note="the last resort; it always loads one driver"
)
KERNEL_LOG = Command(text="journalctl -k -b --no-pager | grep -iE 'nvrm|xid|nvidia'", safe=True)


def ollama_container(evidence: Evidence) -> str:
    """The name of the running container of Ollama; "" where none is known."""
    for row in evidence.all_readings("container"):
        value = row.value if isinstance(row.value, dict) else {}
        if value.get("role") == "ollama" and row.about:
            return row.about
    if evidence.has_kind("docker_log") and not evidence.has_kind("ollama_log", "host"):
        return "ollama"  # its usual name
    return ""


def restart_ollama(evidence: Evidence) -> Command:
    """Restarts it where it runs."""
    if name := ollama_container(evidence):
        return Command(text=f"docker restart {name}", safe=False, note="requests in work are lost")
    return RESTART_OLLAMA


def stop_ollama(evidence: Evidence) -> Command:
    """Stops it where it runs."""
    if name := ollama_container(evidence):
        return Command(text=f"docker stop {name}", safe=False, note="requests in work are lost")
    return STOP_OLLAMA


def somebody_computes(evidence: Evidence) -> bool:
    """Whether a service runs here that wants the GPU: its start had CUDA look for it."""
    containers = [row.value for row in evidence.all_readings("container") if isinstance(row.value, dict)]
    return any(row.value is True for row in evidence.all_readings("ollama.answers")) or any(
        value.get("gpu_request") and value.get("state", "running") == "running" for value in containers
    )


def users_of_gpu(evidence: Evidence) -> str:
    """Who holds the card: «llama-server (PID 940), python (PID 1203)»; "" where it is not known."""
    rows = [
        (row.about, row.value) for row in evidence.all_readings("gpu.process") if isinstance(row.value, dict)
    ]
    return ", ".join(f"{value.get('name') or 'a process'} (PID {pid})" for pid, value in rows)
