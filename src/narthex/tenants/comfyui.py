"""ComfyUI as a tenant: it is asked for jobs through its own API, and only those are touched.

Nothing is unloaded and nobody's work is stopped: neither /free nor /interrupt is ever sent, and only our own
prompts are taken out of the queue. It keeps its models in VRAM for ever, so after a job it holds about what
it held at most.
"""

from __future__ import annotations

import time
import uuid
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from narthex.engines._base import Watch
from narthex.errors import TenantError
from narthex.host.gpu import read_gpus
from narthex.tenants._base import Peak, Work
from narthex.tenants.comfyui_api import URL, ComfyApi, ComfyError
from narthex.tenants.comfyui_graph import Graph, fresh, newest_workflow, read_workflow
from narthex.tenants.comfyui_job import POLL_S, ComfyJob
from narthex.tenants.comfyui_processes import ComfyProcesses
from narthex.tenants.jobs import Jobs
from narthex.tenants.vram import VramWatch
from narthex.units import format_size, sentence

_GREEDY = 0.8  # of the cards together
_OWN_FIGURES = "ComfyUI's own figures"
_OWN_GAP = (
    "VRAM: ComfyUI's own figures lack its CUDA context (some hundred MiB) and, with DynamicVRAM, its weights."
)


class ComfyTenant:
    """``workflow`` is a file in the API's format; without it the newest one that ended well is run again.

    ``process``: the name of its process, where that does not listen itself, as behind Docker's proxy.
    Raises TenantError for a URL that makes no sense.
    """

    def __init__(
        self, name: str, url: str | None = None, workflow: Path | None = None, process: str | None = None
    ) -> None:
        self.name = name
        self._api = ComfyApi(url or URL)
        self._workflow = workflow
        self._processes = ComfyProcesses(self._api.host, self._api.port, process)

    def describe(self) -> str:
        """Version, address and workflow."""
        job = f"workflow {self._workflow.name}" if self._workflow else "its newest finished workflow"
        try:
            return f"ComfyUI {self._api.stats().version} at {self._api.url}, {job}"
        except ComfyError as error:
            raise self._not_there(error) from error

    def must_be_ready(self) -> None:
        """It answers, and there is a workflow to send."""
        self.describe()
        self._graph()

    def held_bytes(self) -> int | None:
        """By its processes; without NVML by its own figures."""
        held = self._processes.held_bytes()
        return held if held is not None else self._own_figure()

    def measure(self, watch: Watch) -> Peak:
        """One job. Without NVML, or where its process can't be seen, ComfyUI's own figures count."""
        own: list[int] = []
        with VramWatch(self._processes.pids) as vram:
            job = self._begin()
            try:
                while (end := job.poll()) is None:
                    before = job.waiting()
                    words = f"{before} of other people before it" if before else "at work"
                    watch(f"one job of «{self.name}»: {words}", None)
                    if (figure := self._own_figure()) is not None:
                        own.append(figure)
                    time.sleep(POLL_S)
            except BaseException:
                job.leave(wait=False)
                raise
            job.leave()
        if end.words:
            raise self._failed(end.words)
        if vram.peak_bytes is not None:
            gaps = (*vram.gaps(), *_greed(vram.peak_bytes))
            return Peak(bytes=vram.peak_bytes, source="NVML, by process", jobs=1, gaps=gaps)
        last = self._own_figure()
        figures = own if last is None else [*own, last]
        if not figures:
            return Peak(bytes=None, source="", jobs=1, gaps=vram.gaps())
        return Peak(bytes=max(figures), source=_OWN_FIGURES, jobs=1, gaps=(*vram.gaps(), _OWN_GAP))

    def job(self) -> AbstractContextManager[Work]:
        """Its workflow again and again, each time with another seed."""
        return Jobs(self.name, self._begin)

    def _begin(self) -> ComfyJob:
        graph = fresh(self._graph())
        try:
            return ComfyJob(self._api, self._api.submit(graph, str(uuid.uuid4())))
        except ComfyError as error:
            raise (self._not_there(error) if error.lost else self._failed(error.words)) from error

    def _graph(self) -> Graph:
        if self._workflow is not None:
            return read_workflow(self._workflow)
        try:
            graph = newest_workflow(self._api.newest())
        except ComfyError as error:
            raise self._not_there(error) from error
        if graph is None:
            raise TenantError(
                "ComfyUI has finished no workflow since it was started, so narthex has no job for it.",
                hint=f'Run one in {self._api.url}, or set workflow = "FILE.json" in [beside.{self.name}].',
            )
        return graph

    def _own_figure(self) -> int | None:
        with suppress(ComfyError):
            stats = self._api.stats()
            return 0 if stats.device == "cpu" else stats.torch_bytes
        return None

    def _not_there(self, error: ComfyError) -> TenantError:
        return TenantError(
            f"ComfyUI can't be asked at {self._api.url}: {error.words}.",
            hint=f"Start it, or set its address: url in [beside.{self.name}] of narthex.toml.",
        )

    def _failed(self, words: str) -> TenantError:
        return TenantError(
            sentence(f"The job of ComfyUI fails: {words}"), hint=f"Run the workflow in {self._api.url} first."
        )


def _greed(peak_bytes: int) -> tuple[str, ...]:
    """ComfyUI's DynamicVRAM takes what is free, which leaves no room for anyone."""
    total = sum(gpu.total_bytes for gpu in read_gpus(processes=False)[0])
    if not total or peak_bytes < _GREEDY * total:
        return ()
    return (
        f"ComfyUI took {format_size(peak_bytes)} of {format_size(total)}: it uses what is free. Start it "
        "with --vram-headroom and the GiB that the model needs, and measure again.",
    )
