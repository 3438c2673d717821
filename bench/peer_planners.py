"""What other planners say about the same files; started by ``planner_accuracy.py`` in their own environment.

    python peer_planners.py PLANNER < asked.json > told.json

Asked: a list of {path, ctx, gpu_layers, ubatch, kv_type, flash_attn, parallel, layers}. Told: for each row
{model, context, compute} in bytes on the GPU, or null where the planner can't say. Each is asked through its
own functions, as its own command would; constants for the driver's context are left out, since the engine's
figures leave it out too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

GB = 1e9

Row = dict[str, Any]
Told = dict[str, float] | None


def llama_mdl(row: Row) -> Told:
    """llama-mdl: exact tensor sums, and a compute term fitted to 217 dry runs."""
    model = import_module("mdl_fit.model")
    flags = model.Flags(
        ctx=row["ctx"] * row["parallel"],
        ngl=row["gpu_layers"],
        ncmoe=row.get("cpu_moe") or 0,
        ub=row["ubatch"],
        b=max(512, row["ubatch"]),
        ctk=row["kv_type"],
        ctv=row["kv_type"],
        fa=row["flash_attn"] != "off",
        np=row["parallel"],
    )
    memory = model.memory(_mdl_shape(row["path"]), flags)
    return {"model": memory.gpu_weights, "context": memory.gpu_context, "compute": memory.gpu_compute}


@cache
def _mdl_shape(path: str) -> Any:
    return import_module("mdl_fit.model").Shape(import_module("mdl_fit.gguf").load(path))


def oldiron(row: Row) -> Told:
    """oldiron: weights by share of layers, full attention, a compute term of width and micro-batch."""
    memory = import_module("oldiron.memory")
    held = _oldiron_model(row["path"])
    budget = memory.plan(
        held,
        80 << 30,
        row["ctx"] * row["parallel"],
        row["kv_type"],
        row["kv_type"],
        row["ubatch"],
        gpu_layers=row["gpu_layers"],
    )
    return {"model": budget.weights, "context": budget.kv_cache, "compute": budget.compute}


@cache
def _oldiron_model(path: str) -> Any:
    return import_module("oldiron.gguf_meta").read_gguf(path)


def hearthwork(row: Row) -> Told:
    """hearthwork: the file and its cache. It plans no number of layers: only whole models are asked."""
    if row["gpu_layers"] <= row["layers"]:
        return None
    info = import_module("hearthwork.context").model_info(row["path"], row["kv_type"])
    if not info or not info["kvPerToken"]:
        return None
    extra = import_module("hearthwork.budgets").OVERHEAD_GB * GB
    cache_bytes = info["kvPerToken"] * row["ctx"] * row["parallel"]
    return {"model": Path(row["path"]).stat().st_size, "context": cache_bytes, "compute": extra}


def polyserve(row: Row) -> Told:
    """polyserve: weights and cache by share of layers, and a constant that holds the driver's context too.

    It reads no GGUF, so it is told the shape.
    """
    models, memory = import_module("polyserve.models"), import_module("polyserve.memory")
    meta = _oldiron_model(row["path"])
    arch = models.ArchInfo(
        num_layers=meta.n_layer,
        hidden_size=meta.n_embd,
        num_attention_heads=max(1, meta.n_embd // meta.head_dim_k),
        num_kv_heads=max(meta.n_head_kv_per_layer),
        head_dim=meta.head_dim_k,
        torch_dtype="float16",
    )
    config = models.Config(backend="llamacpp", quant="file", kv_dtype=_POLYSERVE_KV[row["kv_type"]])
    model = models.PreparedModel.model_construct(arch=arch, weights_bytes={"file": meta.weights_bytes})
    share = min(1.0, row["gpu_layers"] / meta.n_layer)
    cells = row["ctx"] * row["parallel"]
    return {
        "model": model.weights_for("file") * share,
        "context": memory.kv_cache_bytes(model, config, cells) * share,
        "compute": import_module("polyserve.backends.llamacpp").LlamaCppBackend.runtime_workspace_bytes,
    }


_POLYSERVE_KV = {"f16": "auto", "q8_0": "q8_0", "q4_0": "q4_0"}

PLANNERS: dict[str, Callable[[Row], Told]] = {
    "llama-mdl": llama_mdl,
    "oldiron": oldiron,
    "hearthwork": hearthwork,
    "polyserve": polyserve,
}


def main() -> int:
    """Answer for the planner named on the command line."""
    planner = PLANNERS[sys.argv[1]]
    json.dump([planner(row) for row in json.load(sys.stdin)], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
