"""Who holds memory of a card: from nvidia-smi, from «ollama ps», from what collectors saw."""

from __future__ import annotations

import re

import msgspec

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Quote
from narthex.doctor.rules.memory.amounts import size_of
from narthex.doctor.sign import Sign
from narthex.units import MIB

# A row of nvidia-smi's table of processes; drivers before 450 print no GI and CI.
PROCESS = Sign(
    r"^\| ?(?P<card>\d+) (?:(?:N/A|\d+) (?:N/A|\d+) )?(?P<pid>\d+) (?P<type>C\+G|M\+C|C|G) (?P<name>.+?)"
    r" (?P<mib>\d+)MiB \|",
    words=["mib |"],
)
# A row of nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv.
PROCESS_CSV = Sign(
    r"^(?P<pid>\d+), ?(?P<name>[^,]+), ?(?P<mib>\d+) MiB$",
    words=[" mib"],
    kinds=("nvidia_smi", "commands", "client_error"),
)
CARD = Sign(r"\| (?P<used>\d+)MiB / (?P<total>\d+)MiB \|", words=["mib /"])
RESIDENT = Sign(
    r"^(?P<model>\S+) (?P<id>[0-9a-f]{12}) (?P<size>[\d.]+ ?[KMGT]?B) "
    r"(?:100% (?P<all>CPU|GPU)|(?P<cpu>\d+)%/(?P<gpu>\d+)% CPU/GPU)(?: (?P<ctx>\d+))?(?: (?P<until>.*))?$",
    words=["% cpu", "% gpu"],
)
SIGNS = (PROCESS, PROCESS_CSV, CARD, RESIDENT)

_ENGINE = re.compile(r"ollama|llama[-_]server|llama-box", re.IGNORECASE)
_COMFYUI = re.compile(r"comfy", re.IGNORECASE)
_PYTHON = re.compile(r"python", re.IGNORECASE)
_DESKTOP = re.compile(r"Xorg|Xwayland|gnome-shell|kwin|plasma|dwm\.exe|explorer\.exe", re.IGNORECASE)


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A process with memory on a card."""

    name: str
    pid: int | None
    vram_bytes: int
    quote: Quote
    service: str = ""  # where a collector knows it: ollama, comfyui, …

    @property
    def is_engine(self) -> bool:
        """Ollama or a llama-server: one of its runners."""
        return self.service in ("ollama", "llama_server") or bool(_ENGINE.search(self.name))

    @property
    def is_comfyui(self) -> bool:
        """It is known for it, or says so itself; as «python» alone it can be any program."""
        return self.service == "comfyui" or bool(_COMFYUI.search(self.name))

    @property
    def is_python(self) -> bool:
        """Where ComfyUI is known to run, it shows up under this name."""
        return bool(_PYTHON.search(self.name))

    @property
    def is_desktop(self) -> bool:
        """The screen's own share."""
        return bool(_DESKTOP.search(self.name))

    @property
    def label(self) -> str:
        """Name and PID."""
        short = self.name if len(self.name) < 50 else "…" + self.name[-48:]
        return f"{short} (PID {self.pid})" if self.pid is not None else short


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A model that Ollama holds."""

    model: str
    size_bytes: int | None
    vram_bytes: int | None
    num_ctx: int | None
    seconds_left: float | None
    forever: bool
    quote: Quote
    live: bool = False  # seen now, so that it can be told to go

    @property
    def share(self) -> float | None:
        """Part that is on the GPU."""
        if not self.size_bytes or self.vram_bytes is None:
            return None
        return self.vram_bytes / self.size_bytes


def tenants(evidence: Evidence) -> list[Tenant]:
    """Every process told of, the biggest first."""
    rows = {
        (hit["pid"], hit["name"]): Tenant(
            name=hit["name"], pid=int(hit["pid"]), vram_bytes=int(hit["mib"]) * MIB, quote=hit.quote()
        )
        for hit in evidence.hits(PROCESS, PROCESS_CSV)
    }
    for reading in evidence.all_readings("gpu.process"):
        value = reading.value or {}
        if value.get("vram_bytes"):
            rows[(reading.about, value.get("name", ""))] = Tenant(
                name=value.get("name") or "a process",
                pid=int(reading.about) if reading.about.isdecimal() else None,
                vram_bytes=value["vram_bytes"],
                quote=evidence.quote_reading(reading),
                service=value.get("service") or "",
            )
    return sorted(rows.values(), key=lambda tenant: -tenant.vram_bytes)


def strangers(evidence: Evidence) -> list[Tenant]:
    """Those that are neither Ollama's nor the screen's."""
    return [one for one in tenants(evidence) if not one.is_engine and not one.is_desktop]


def residents(evidence: Evidence) -> list[Resident]:
    """Models in memory, as «ollama ps» or the API tells it."""
    rows = []
    for hit in evidence.hits(RESIDENT):
        size = size_of(hit["size"])
        share = {"GPU": 1.0, "CPU": 0.0}.get(hit["all"].upper()) if hit["all"] else int(hit["gpu"]) / 100
        rows.append(
            Resident(
                model=hit["model"],
                size_bytes=size,
                vram_bytes=round(size * share) if size is not None and share is not None else None,
                num_ctx=int(hit["ctx"]) if hit["ctx"] else None,
                seconds_left=None,
                forever="forever" in hit["until"].lower(),
                quote=hit.quote(),
            )
        )
    for reading in evidence.all_readings("ollama.resident"):
        if reading.value:
            rows.append(_resident(evidence.quote_reading(reading), reading.about, reading.value))
    return rows


def _resident(quote: Quote, model: str, value: dict[str, object]) -> Resident:
    def number(name: str) -> float | None:
        found = value.get(name)
        return found if isinstance(found, int | float) else None

    left = number("seconds_left")
    size, vram, ctx = number("size_bytes"), number("size_vram_bytes"), number("num_ctx")
    return Resident(
        model=model,
        size_bytes=int(size) if size is not None else None,
        vram_bytes=int(vram) if vram is not None else None,
        num_ctx=int(ctx) if ctx is not None else None,
        seconds_left=left,
        forever=left is not None and left > 20 * 365 * 86400,
        quote=quote,
        live=True,
    )


def card_total(evidence: Evidence) -> int | None:
    """Bytes of the biggest card, as nvidia-smi or NVML tells it."""
    sizes = [int(hit["total"]) * MIB for hit in evidence.hits(CARD)]
    for reading in evidence.all_readings("gpu.memory"):
        if reading.value and reading.value.get("total_bytes"):
            sizes.append(reading.value["total_bytes"])
    return max(sizes, default=None)
