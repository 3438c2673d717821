"""What the header leaves to the engine: facts about an architecture that no metadata key tells.

Source: ``llama_model::create_memory`` and the ``load_arch_hparams`` functions (``src/models/*.cpp``) of
llama.cpp b11434. An architecture that is in none of these tables is unknown to us, and an inspection of
it says so.
"""

from __future__ import annotations

from typing import NamedTuple


class Sliding(NamedTuple):
    """Which layers look back over a window only.

    Of every ``period`` layers one attends to everything: the last, or the first where ``dense_first``.
    0 means that all layers slide; None, that the file itself must carry the pattern. ``window`` is in
    tokens: the value where the file names none, or, where ``fixed``, whatever the file says.
    """

    period: int | None
    dense_first: bool = False
    window: int | None = None
    fixed: bool = False


# without a window, in the file or here, all layers attend to everything
SLIDING: dict[str, Sliding] = {
    "afmoe": Sliding(4),
    "cohere2": Sliding(4),
    "cohere2moe": Sliding(4, dense_first=True),
    "dots3note": Sliding(None),
    "exaone-moe": Sliding(4, window=128),
    "exaone4": Sliding(4, window=4096),  # of 64 layers only, see layers.py
    "gemma2": Sliding(2, window=4096),
    "gemma3": Sliding(6),
    "gemma3n": Sliding(5),
    "gemma4": Sliding(None),
    "gpt-oss": Sliding(2),
    "granite_swa": Sliding(None),
    "laguna": Sliding(4, dense_first=True),
    "lfm2": Sliding(0),
    "llama4": Sliding(4, window=8192, fixed=True),  # in chunks
    "maple": Sliding(None),
    "mellum": Sliding(4),
    "mimo2": Sliding(None),
    "muse-glimmer": Sliding(4),
    "olmo2": Sliding(4),
    "plamo3": Sliding(8),
    "smallthinker": Sliding(4, dense_first=True),
    "spark2_5": Sliding(None),
    "step35": Sliding(None),
}

# every layer keeps a state and no cache
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
# a layer without KV heads keeps a state
RECURRENT_BY_HEADS = frozenset(
    {
        "bailingmoe3",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
# one layer in so many attends, the others keep a state (unless the file lists them)
RECURRENT_BY_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
# every layer keeps both
RECURRENT_AND_ATTENTION = frozenset({"falcon-h1"})
# encoders and diffusion models: nothing is kept from one call to the next
WITHOUT_CACHE = frozenset(
    {
        "bert",
        "clef",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
    }
)
# layers from this one on read the cache of an earlier one
SHARED_CACHE_FROM = {"gemma3n": 20}
# a sparse-attention index, keys only, beside the latent cache
INDEXED = frozenset({"deepseek32", "dots3note", "glm-dsa", "glm5-next", "hy_v4"})

# one cache row of keys and one of values a token, a layer and a KV head (or the latent row, see layers.py)
_PLAIN_NAMES = """
    apertus arcee arctic baichuan bailingmoe bailingmoe2 bitnet bloom chameleon chatglm codeshell cogvlm
    command-r dbrx deci deepseek deepseek2 deepseek2-ocr dots1 ernie4_5 ernie4_5-moe exaone falcon gemma
    glm4 glm4moe gpt2 gptj gptneox granite granitemoe grok grovemoe hrm_text hunyuan-dense hunyuan-moe
    hunyuan_vl hy_v3 internlm2 jais jais2 llama llama-embed maincoder minicpm minicpm3 minimax-m2 mistral3
    mistral4 mpt nemotron olmo olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plm qwen
    qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe refact seed_oss smollm3 stablelm starcoder
    starcoder2 talkie xverse
"""
PLAIN = frozenset(_PLAIN_NAMES.split())

# the engine runs them, but keeps more or other things than the tables here can say
_UNMODELLED = frozenset({"dots3note", "glm5-next", "hy_v4", "qwen4exp"})

KNOWN = (
    PLAIN
    | SLIDING.keys()
    | RECURRENT
    | RECURRENT_BY_HEADS
    | RECURRENT_BY_INTERVAL.keys()
    | RECURRENT_AND_ATTENTION
    | WITHOUT_CACHE
    | INDEXED
) - _UNMODELLED
