"""``EraWords``: the log lines and error texts that changed between releases.

Era F's are recorded; those of B to E come from the facts on their sources and were seen on no real server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from narthex.testing.ollama.devices import Device, system_memory
from narthex.testing.ollama.gguf_info import ModelFile
from narthex.testing.ollama.gowords import binary_size
from narthex.testing.ollama.log import Log
from narthex.testing.ollama.manner import Manner

if TYPE_CHECKING:
    from narthex.testing.ollama.command import Start
    from narthex.testing.ollama.runner import Runner

MIB = 2**20
_RESOURCES = (
    "model failed to load, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


class EraWords:
    """Says what this release says."""

    def __init__(self, manner: Manner, log: Log) -> None:
        self.manner, self.log = manner, log
        self.modern = manner.era == "F"

    def discovering(self, devices: tuple[Device, ...], total_vram: int, default_ctx: int) -> None:
        """The lines about the hardware, at the start."""
        since = self.manner.since
        if since(0, 12, 4):
            self.log.info("discovering available GPUs...")
        elif since(0, 2, 0):
            self.log.info("looking for compatible GPUs")
            if not devices:
                self.log.info("no compatible GPUs were discovered")
        for index, device in enumerate(devices):
            self._compute(str(index), device)
        if not devices:
            total, free, _ = system_memory()
            self._compute("cpu", Device("cpu", "cpu", total, free, ""))
        if since(0, 15, 5):
            total_words = binary_size(total_vram)
            self.log.info("vram-based default context", total_vram=total_words, default_num_ctx=default_ctx)
        elif since(0, 11, 4) and devices and total_vram < 20 * 2**30:
            low = {"total vram": binary_size(total_vram), "threshold": "20.0 GiB"}
            self.log.info("entering low vram mode", **low)

    def _compute(self, index: str, device: Device) -> None:
        if not self.manner.since(0, 1, 35):
            return
        cuda, none = device.library == "CUDA", index == "cpu"
        sizes = {"total": binary_size(device.total), "available": binary_size(device.free)}
        library = "cpu" if none else device.library
        driver = "" if none else "13.0" if cuda else "0.0"
        if not self.manner.since(0, 12, 4):
            variant = {"variant": "v12" if cuda else ""} if self.manner.since(0, 5, 0) else {}
            name = "" if none else device.description
            words = {**variant, "compute": device.compute, "driver": driver, "name": name}
            self.log.info("inference compute", id=index, library=library.lower(), **words, **sizes)
            return
        filtered = {"filter_id": "" if cuda else index} if self.manner.since(0, 12, 10) and not none else {}
        self.log.info(
            "inference compute",
            id=index,
            **filtered,
            library=library,
            compute=device.compute,
            name=device.name,
            description=device.description,
            libdirs="ollama,cuda_v13" if cuda else "ollama",
            driver=driver,
            pci_id="0000:01:00.0" if cuda else "",
            type="" if none else "discrete",
            **sizes,
        )

    def planned(self, model: ModelFile, start: Start, devices: tuple[Device, ...]) -> None:
        """Before a runner starts."""
        if self.modern:
            if start.mmap_off:
                words = "disabling mmap for llama-server load by default"
                self.log.info(words, model=model.blob, reason="cpu")
            self.log.info("using llama-server for model", model=model.blob)
            return
        predicted = model.predicted(start.num_ctx * start.parallel)
        if (
            devices
            and start.wanted.num_gpu < 0
            and self.manner.since(0, 1, 33)
            and not self.manner.since(0, 12, 11)
        ):
            words = "new model will fit in available VRAM in single GPU, loading"
            sizes = {"available": devices[0].free, "required": binary_size(predicted)}
            self.log.info(words, model=model.blob, gpu="GPU-0", parallel=start.parallel, **sizes)
        if self.manner.era in "BCD":
            self._offload(model, start, devices, predicted)

    def _offload(self, model: ModelFile, start: Start, devices: tuple[Device, ...], predicted: int) -> None:
        library = devices[0].library.lower() if devices else "cpu"
        layers = _layers(model, start, devices)
        free = devices[0].free if devices else system_memory()[1]
        words = {"library": library} if self.manner.since(0, 5, 12) else {}
        gpu = {"memory__gpu_overhead": "0 B"} if self.manner.since(0, 5, 12) else {}
        cache = predicted - model.header.file_bytes
        self.log.info(
            "offload" if words else f"offload to {library}",
            **words,
            layers__requested=start.wanted.num_gpu,
            layers__model=model.number("block_count") + 1,
            layers__offload=layers,
            layers__split="",
            memory__available=f"[{binary_size(free)}]",
            **gpu,
            memory__required__full=binary_size(predicted),
            memory__required__partial=binary_size(predicted if layers else 0),
            memory__required__kv=binary_size(cache),
            memory__required__allocations=f"[{binary_size(predicted if layers else 0)}]",
            memory__weights__total=binary_size(model.header.file_bytes),
        )

    def starting(self, runner: Runner, command: list[str], devices: tuple[Device, ...]) -> None:
        """The command line; that of an older release is what that release would have run."""
        if self.modern:
            self.log.info("starting llama-server", cmd=" ".join(command))
            return
        start = runner.start
        binary = ["/usr/lib/ollama/runners/cpu_avx2/ollama_llama_server"]
        if self.manner.since(0, 5, 8):
            binary = ["/usr/bin/ollama", "runner"]
        words = [*binary, "--model", str(runner.model.blob)]
        if self.manner.era != "E":
            words += ["--ctx-size", str(start.num_ctx * start.parallel), "--batch-size", str(start.num_batch)]
            words += ["--n-gpu-layers", str(_layers(runner.model, start, devices))]
            words += ["--threads", str(start.wanted.num_thread or 2)]
            words += ["--flash-attn"] if start.flash_attn == "on" else []
            words += ["--no-mmap"] if start.wanted.use_mmap is False else []
            words += ["--parallel", str(start.parallel)]
        words += ["--port", str(runner.port)]
        name = "starting runner" if self.manner.era == "E" else "starting llama server"
        self.log.info(name, cmd=" ".join(words))

    def waiting(self, runner: Runner, devices: tuple[Device, ...], overhead: int) -> None:
        """After the process was started."""
        total, free, swap = system_memory()
        words = {"total": binary_size(total), "free": binary_size(free), "free_swap": binary_size(swap)}
        self.log.info("system memory", **words)
        if self.manner.since(0, 12, 11):
            for index, device in enumerate(devices):
                self._gpu_memory(index, device, overhead)
        if self.modern:
            self.log.info("loading model via llama-server", model=runner.model.blob)
            self.log.info("waiting for llama-server to start responding")
        elif self.manner.era == "E":
            self.log.info("load", request=_load_request(runner, devices))
        else:
            self.log.info("waiting for llama runner to start responding")

    def _gpu_memory(self, index: int, device: Device, overhead: int) -> None:
        self.log.info(
            "gpu memory",
            id=index,
            library=device.library,
            available=binary_size(max(device.free - 457 * MIB, 0)),
            free=binary_size(device.free),
            minimum="457.0 MiB",
            overhead=binary_size(overhead),
        )

    def not_yet(self, status: str) -> None:
        """While it loads; told once for each status."""
        name = "llama-server" if self.modern else "server"
        self.log.info(f"waiting for {name} to become available", status=status)

    def ready(self, runner: Runner, seconds: float) -> None:
        """Once it answers."""
        if self.manner.era == "E":
            self._layout(runner)
        name = "llama-server" if self.modern else "llama runner"
        self.log.info(f"{name} started in {seconds:.2f} seconds")

    def _layout(self, runner: Runner) -> None:
        """What was allocated, by device."""
        total = 0
        for words, kind in (("model weights", "model"), ("kv cache", "KV"), ("compute graph", "compute")):
            for device, size in runner.buffers.by_device(kind).items():
                self.log.info(words, device=device, size=binary_size(size))
                total += size
        self.log.info("total memory", size=binary_size(total))

    def loaded(self, runner: Runner, full: str, count: int, seconds: float) -> None:
        """After the scheduler took it in; era F waits and reports a second time."""
        if self.modern:
            template = "go_template" if runner.start.template else "none"
            if not runner.start.template and runner.model.chat_template:
                template = "gguf_chat_template"
            self.log.info("template selection", model=full, selected=template, renderer="", parser="")
        self.log.info("loaded runners", count=count)
        if self.modern:
            self.log.info("waiting for llama-server to start responding")
            self.log.info(f"llama-server started in {seconds:.2f} seconds")

    def too_large(self, predicted: int, available: int) -> str | None:
        """0.2.2 to 0.24 refused what main memory can't hold, before loading. None: it is tried."""
        if self.modern or not self.manner.since(0, 2, 2) or predicted <= available:
            return None
        sizes = binary_size(predicted), binary_size(available)
        self.log.warn("model request too large for system", requested=sizes[0], available=sizes[1])
        return f"model requires more system memory ({sizes[0]}) than is available ({sizes[1]})"

    def load_error(self, how: str, said: list[str]) -> str:
        """What the API answers when the runner ended: ``how`` is «exit status 1» or «signal: killed»."""
        if self.modern:
            text = "\n".join(said)
            if how.startswith("signal") and text:
                return f"llama-server process has terminated: {text}: {text}"
            return f"llama-server process has terminated: {how}" + (f": {text}" if text else "")
        if self.manner.since(0, 15, 5):
            return _RESOURCES
        return f"llama runner process has terminated: {said[-1] if said else how}"

    def late(self, said: list[str]) -> str:
        """When loading stalled."""
        last = said[-1] if said else ""
        if self.modern:
            return f"timed out waiting for llama-server to start - {last}"
        return f"timed out waiting for llama runner to start - progress 0.00 - {last}"

    def lost(self, url: str, words: str) -> str:
        """When the runner went away while it computed."""
        if self.modern:
            return f"an error was encountered while running the model: {words}"
        if self.manner.since(0, 9, 1):
            return _STOPPED
        return f'POST predict: Post "{url}/completion": EOF'


def _layers(model: ModelFile, start: Start, devices: tuple[Device, ...]) -> int:
    every = model.number("block_count") + 1
    if not devices:
        return 0
    return every if start.wanted.num_gpu < 0 else min(start.wanted.num_gpu, every)


def _load_request(runner: Runner, devices: tuple[Device, ...]) -> str:
    """Era E sends its options over HTTP and logs them as a Go struct."""
    start = runner.start
    layers = _layers(runner.model, start, devices)
    placed = f"{layers}[ID:0 Layers:{layers}(0..{layers - 1})]" if layers else "[]"
    flash = {"on": "Enabled", "off": "Disabled"}.get(start.flash_attn, "Auto")
    return (
        "{Operation:commit LoraPath:[] "
        f"Parallel:{start.parallel} BatchSize:{start.num_batch} FlashAttention:{flash} "
        f"KvSize:{start.num_ctx * start.parallel} KvCacheType:{start.kv_type} "
        f"NumThreads:{start.wanted.num_thread} "
        f"GPULayers:{placed} MultiUserCache:false ProjectorPath: MainGPU:{start.wanted.main_gpu or 0} "
        f"UseMmap:{'true' if start.wanted.use_mmap is not False else 'false'}}}"
    )
