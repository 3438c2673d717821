"""Which graph belongs to which architecture.

``RECIPES`` says how an architecture differs from the plain transformer; each row was read off its file in
``src/models`` of llama.cpp b11434. An architecture without a row is planned as a plain transformer with
whatever its tensors show, and the plan says that it is only bounded. ``design.md`` tells which rows were
checked against dry runs of the engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from narthex.memory.blocks import Setup, Weights
from narthex.memory.experts import Routing
from narthex.memory.transformer import Recipe, Transformer
from narthex.models.inspection import Inspection

_PLAIN = Recipe()
_AS_FILED = Routing(from_file=True)  # gating and norm of the experts as the file says
_UNNORMED = Recipe(routing=Routing(normed=False))
_SHARED = Recipe(routing=_AS_FILED)
_GRANITE = Recipe(scale_input=True, residual_scale=True, scaled_logits=True)
_GEMMA = Recipe(scale_input=True, scaled_queries=True)
_GEMMA3 = Recipe(scaled_input=True, scaled_queries=True, post_norms=True)
_COHERE = Recipe(norm="norm", parallel="cohere", scaled_logits=True)
_QWEN_DELTA = Recipe(
    gated_queries=True,
    norm_ahead=True,
    ffn_norm="post_attention_norm",
    shared_gate="sigmoid",
    pick="after norm",
)
_NEMOTRON_H = Recipe(
    rope="none",
    act="relu_sqr",
    pick="after norm",
    routing=Routing(gating="sigmoid", act="relu_sqr", from_file=True, default_gating=2),
)

RECIPES: dict[str, Recipe] = {
    # dense
    "apertus": Recipe(act="unary"),
    "arcee": Recipe(act="relu_sqr"),
    "baichuan": _PLAIN,
    "chatglm": Recipe(act="glu_fused"),
    "command-r": _COHERE,
    "ernie4_5": _PLAIN,
    "exaone": _PLAIN,
    "falcon": Recipe(norm="norm", parallel="falcon", act="unary"),
    "gemma": _GEMMA,
    "glm4": Recipe(post_norms=True, act="glu_fused"),
    "granite": _GRANITE,
    "hunyuan-dense": Recipe(qk_norm="late"),
    "hunyuan_vl": Recipe(qk_norm="late", positions=4),
    "internlm2": _PLAIN,
    "llama": _PLAIN,
    "minicpm": _GRANITE,
    "mistral3": _PLAIN,
    "nemotron": Recipe(norm="norm", act="relu_sqr"),
    "olmo": Recipe(norm="norm"),
    "phi2": Recipe(norm="norm", parallel="phi2", act="unary", scaled_queries=True),
    "phi3": Recipe(act="glu_fused", scaled_queries=True, residual_first="last"),
    "qwen2": _PLAIN,
    "qwen2vl": Recipe(positions=4),
    "qwen3": _PLAIN,
    "qwen3vl": Recipe(positions=4, deep_stack=True),
    "seed_oss": Recipe(ffn_norm="post_attention_norm"),
    "smollm3": Recipe(rope="skip4"),
    "stablelm": Recipe(norm="norm"),
    "starcoder2": Recipe(norm="norm", act="unary"),
    "xverse": _PLAIN,
    # sliding windows
    "cohere2": _COHERE._replace(rope="window"),
    "exaone4": Recipe(pre_norm=False, post_norms=True, ffn_norm="", rope="window"),
    "gemma2": _GEMMA._replace(post_norms=True, softcap=True, logit_softcap=True),
    "gemma3": _GEMMA3,
    "gemma3n": Recipe(scaled_input=True, logit_softcap=True, pick="before norm"),
    "gemma4": Recipe(scaled_input=True, pick="after norm"),
    "olmo2": Recipe(pre_norm=False, post_norms=True, ffn_norm="", qk_norm="row"),
    # experts
    "bailingmoe": _SHARED,
    "bailingmoe2": _SHARED,
    "deepseek": _UNNORMED,
    "dots1": _SHARED,
    "ernie4_5-moe": _PLAIN,
    "glm4moe": Recipe(ffn_norm="post_attention_norm", routing=Routing(from_file=True, default_gating=2)),
    "gpt-oss": Recipe(
        ffn_norm="post_attention_norm", routing=Routing(gating="late", normed=False), pick="before norm"
    ),
    "granitemoe": _GRANITE,
    "hunyuan-moe": Recipe(qk_norm="late"),
    "llama4": Recipe(
        rope="skip4",
        qk_norm="bare",
        temperature=True,
        routing=Routing(gating="sigmoid", normed=False, weigh_first=True),
    ),
    "minimax-m2": Recipe(qk_norm="row", routing=_AS_FILED),
    "phimoe": Recipe(scaled_queries=True, residual_first="last"),
    "olmoe": Recipe(qk_norm="row", routing=Routing(normed=False)),
    "qwen2moe": Recipe(routing=Routing(normed=False), shared_gate="silu"),
    "qwen3moe": _PLAIN,
    "qwen3vlmoe": Recipe(positions=4, deep_stack=True),
    # latent attention
    "deepseek2": Recipe(routing=_AS_FILED),
    # recurrent and hybrid
    "falcon-h1": _PLAIN,
    "granitehybrid": _GRANITE._replace(rope="none"),
    "jamba": Recipe(rope="none", routing=Routing(normed=False), residual_first="both"),
    "lfm2": Recipe(residual_first="both"),
    "lfm2moe": Recipe(routing=Routing(from_file=True), residual_first="both"),
    "mamba": _PLAIN,
    "mamba2": _PLAIN,
    "nemotron_h": _NEMOTRON_H,
    "nemotron_h_moe": _NEMOTRON_H,
    "qwen35": _QWEN_DELTA._replace(positions=4),
    "qwen35moe": _QWEN_DELTA._replace(positions=4),
    "qwen3next": _QWEN_DELTA,
}

# module and class of the graphs that are more than a plain transformer; loaded when one is planned
_BUILDERS: dict[str, tuple[str, str]] = {
    "deepseek2": ("latent", "Latent"),
    "falcon-h1": ("recurrent", "BothMixers"),
    "gemma3n": ("gemma", "Gemma3n"),
    "gemma4": ("gemma", "Gemma4"),
    "granitehybrid": ("recurrent", "Recurrent"),
    "jamba": ("recurrent", "Recurrent"),
    "lfm2": ("recurrent", "Recurrent"),
    "lfm2moe": ("recurrent", "Recurrent"),
    "mamba": ("recurrent", "OneThingALayer"),
    "mamba2": ("recurrent", "OneThingALayer"),
    "nemotron_h": ("recurrent", "OneThingALayer"),
    "nemotron_h_moe": ("recurrent", "OneThingALayer"),
    "qwen35": ("recurrent", "Recurrent"),
    "qwen35moe": ("recurrent", "Recurrent"),
    "qwen3next": ("recurrent", "Recurrent"),
}


def is_known(architecture: str) -> bool:
    """Whether the graph of an architecture is known, not guessed."""
    return architecture in RECIPES


def builder(inspection: Inspection, setup: Setup, weight: Weights, home: Callable[[int], int]) -> Transformer:
    """The builder of a model's graph."""
    kind: type[Transformer] = Transformer
    if inspection.architecture in _BUILDERS:
        module, name = _BUILDERS[inspection.architecture]
        kind = getattr(importlib.import_module(f"narthex.memory.{module}"), name)
    made = kind(inspection, setup, weight, home)
    made.recipe = RECIPES.get(inspection.architecture, _PLAIN)
    return made
