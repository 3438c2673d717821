"""``first_look``: what ``narthex init`` finds: the card, an Ollama and its models, a ComfyUI."""

from __future__ import annotations

from narthex.cli.holdings import Held, holdings
from narthex.engines.ollama.discovery import USUAL, find_server
from narthex.engines.ollama.records import Server
from narthex.errors import EngineError, NarthexError
from narthex.host.collect import collect_host
from narthex.host.facts import HostFacts
from narthex.policy.suggest import SeenModel
from narthex.tenants.comfyui_api import URL, ComfyApi, ComfyError
from narthex.units import format_count, format_size
from narthex.views.policy_draft import FirstLook

_ASK_S = 2.0
_UNNAMED = (USUAL, "container", "process")  # found without being told


def first_look(ollama: str | None = None) -> FirstLook:
    """Look around. Raises NarthexError only where a server that was named does not answer."""
    host = collect_host()
    server, gap = _server(ollama)
    models: tuple[SeenModel, ...] = ()
    gaps = [gap] if gap else []
    if server is not None:
        try:
            models = tuple(_seen(row) for row in holdings(server).models if not row.cloud)
        except NarthexError as error:
            gaps.append(error.message)
    here = server is None or server.place != "elsewhere"
    return FirstLook(
        host=_host_words(host),
        vram_bytes=sum(gpu.total_bytes for gpu in host.gpus) or None if here else None,
        ollama=_server_words(server, len(models)) if server else None,
        ollama_host=_address(server),
        models=models,
        comfyui=_comfyui(),
        gaps=(*gaps, *host.gaps),
    )


def _server(ollama: str | None) -> tuple[Server | None, str]:
    if ollama is not None:
        return find_server(ollama), ""
    try:
        return find_server(), ""
    except EngineError as error:
        return None, error.message


def _address(server: Server | None) -> str | None:
    """Where it has to be named to be found again."""
    return server.url if server is not None and server.source not in _UNNAMED else None


def _seen(row: Held) -> SeenModel:
    capabilities = row.capabilities or ()
    embeds = "embedding" in capabilities or (not capabilities and "bert" in (row.family or ""))
    words = [word for word in (row.quantization, row.family, "embeddings" if embeds else "") if word]
    return SeenModel(
        name=row.name,
        size_bytes=row.size_bytes,
        words=", ".join(words),
        embeds=embeds,
        loaded=row.loaded is not None,
        same_as=row.same_blob_as or "",
    )


def _host_words(host: HostFacts) -> tuple[str, ...]:
    cards = [f"{gpu.name}, {format_size(gpu.total_bytes)} of VRAM" for gpu in host.gpus]
    cores = f"{host.physical_cores} cores" if host.physical_cores else "an unknown number of cores"
    machine = f"{format_size(host.ram_total_bytes)} of main memory, {cores}"
    tenants = [
        f"on the card now, {process.name or f'process {process.pid}'} with {format_size(process.vram_bytes)}"
        for gpu in host.gpus
        for process in gpu.processes
    ]
    return (*cards, machine, *tenants)


def _server_words(server: Server, models: int) -> str:
    container = f" in the container {server.container.name}" if server.container else ""
    return f"Ollama {server.version} at {server.url}{container}, {format_count(models, 'model')}"


def _comfyui() -> str | None:
    try:
        stats = ComfyApi(URL, timeout_s=_ASK_S).stats()
    except ComfyError:
        return None
    return f"ComfyUI {stats.version} at {URL}"
