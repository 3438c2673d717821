"""Whether a request fits a runner that is loaded, and how a new one is started."""

from __future__ import annotations

from dataclasses import replace

from narthex.testing.ollama.command import Start, flash_attention
from narthex.testing.ollama.devices import Device
from narthex.testing.ollama.gguf_info import ModelFile
from narthex.testing.ollama.manner import Manner
from narthex.testing.ollama.options import Wanted
from narthex.testing.ollama.settings import Settings

_LEAST_CTX = 4


def adjusted(wanted: Wanted, model: ModelFile) -> Wanted:
    """After the rules that come before any comparison: a least and a most context."""
    num_ctx = max(wanted.num_ctx, _LEAST_CTX)
    return replace(wanted, num_ctx=min(num_ctx, model.context_train or num_ctx))


def differs(start: Start, wanted: Wanted, manner: Manner) -> bool:
    """Whether a runner started so must be replaced for this request."""
    was, modern = start.wanted, manner.era == "F"
    if start.num_ctx != wanted.num_ctx and not (modern and was.ctx_auto and wanted.ctx_auto):
        return True
    batch = start.num_batch if modern else was.num_batch
    if batch != wanted.num_batch and not (was.batch_auto and wanted.batch_auto):
        return True
    if wanted.num_gpu >= 0 and wanted.num_gpu != was.num_gpu:
        return True
    if was.use_mmap != wanted.use_mmap and not (start.mmap_off and wanted.use_mmap is None):
        return True
    rest = ("main_gpu", "num_thread", "draft_num_predict", "shift")
    return any(getattr(was, name) != getattr(wanted, name) for name in rest)


def start_for(
    wanted: Wanted,
    model: ModelFile,
    settings: Settings,
    manner: Manner,
    *,
    devices: tuple[Device, ...],
    free: int,
    template: bool,
) -> Start:
    """How a runner is started for these options; ``free`` is the GPUs' memory, 0 without any."""
    parallel = slots(model, settings, manner)
    total = wanted.num_ctx * parallel
    batch = wanted.num_batch
    if wanted.batch_auto:
        batch = manner.automatic_batch(total, model.predicted(total), free)
        if model.embedding:
            batch = min(2048, wanted.num_ctx)
    return Start(
        wanted=wanted,
        num_ctx=wanted.num_ctx,
        parallel=parallel,
        num_batch=batch,
        mmap_off=wanted.use_mmap is None and (not devices or wanted.num_gpu == 0),
        flash_attn=flash_attention(settings, devices),
        kv_type=settings.kv_type,
        template=template,
    )


def slots(model: ModelFile, settings: Settings, manner: Manner) -> int:
    """Parallel requests that one runner of this model serves."""
    if model.one_slot:
        return 1
    return settings.num_parallel if settings.parallel_given else manner.default_parallel
