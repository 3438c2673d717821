"""Headers in Ollama's own spelling: the same models, with other names for architecture, keys and tensors.

Many files of Ollama's registry are written so, and Ollama's build of llama.cpp reads them as if they had
llama.cpp's names; another build may refuse them. Planning needs llama.cpp's names too. Source of the facts:
Ollama's compatibility layer (``llama/compat``, August 2026).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from narthex.models.inspection import TensorInfo

# what a text model's file holds for eyes and ears; loaded apart from the text model, as a projector is
BESIDE = ("v.", "mm.", "a.", "s.", "model.vision_tower.")
LEFT = ("mtp.",)  # heads that predict ahead, in a layout that the engine does not load
_ARCHITECTURES = {
    "deepseekocr": "deepseek2-ocr",
    "glm4moelite": "deepseek2",
    "glmocr": "glm4",
    "gptoss": "gpt-oss",
    "nemotron_h_omni": "nemotron_h",  # or nemotron_h_moe, where there are experts
    "olmo3": "olmo2",
    "qwen25vl": "qwen2vl",
}
# a part of a tensor's name and what llama.cpp has there
_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "glmocr": (
        (".attn_out.", ".attn_output."),
        (".post_attn_norm.", ".post_attention_norm."),
        (".post_ffn_norm.", ".post_ffw_norm."),
    ),
    "gptoss": ((".attn_out.", ".attn_output."), (".ffn_norm.", ".post_attention_norm.")),
    "laguna": ((".attn_g.", ".attn_gate."),),
}
# whole endings
_ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "gptoss": ((".attn_sinks", ".attn_sinks.weight"),),
    "qwen35": ((".ssm_dt", ".ssm_dt.bias"),),
    "qwen35moe": ((".ssm_dt", ".ssm_dt.bias"),),
    "qwen3next": ((".ssm_dt", ".ssm_dt.bias"),),
}


class Header(NamedTuple):
    """Metadata and tensors in llama.cpp's names. ``translated``: some had others."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    translated: bool


def to_llama_cpp(metadata: dict[str, Any], tensors: tuple[TensorInfo, ...]) -> Header:
    """A header as llama.cpp would have written it. One that already is comes back as it was."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        return Header(metadata, tensors, translated=False)
    keys = _keys(metadata, architecture)
    named = tuple(_renamed(tensor, architecture) for tensor in tensors)
    if architecture == "lfm2" and not any(tensor.name == "token_embd_norm.weight" for tensor in tensors):
        named = tuple(_as(tensor, "output_norm.weight", "token_embd_norm.weight") for tensor in named)
    beside = any(tensor.name.startswith((*BESIDE, *LEFT)) for tensor in tensors)
    changed = keys is not metadata or any(new is not old for new, old in zip(named, tensors, strict=True))
    return Header(keys, named if changed else tensors, translated=changed or beside)


def beside_bytes(tensors: tuple[TensorInfo, ...]) -> int:
    """Bytes of the weights that are loaded apart from the text model."""
    return sum(tensor.nbytes for tensor in tensors if tensor.name.startswith(BESIDE))


def _keys(metadata: dict[str, Any], old: str) -> dict[str, Any]:
    new = _ARCHITECTURES.get(old)
    if new is None:
        return metadata
    if old == "nemotron_h_omni" and metadata.get(f"{old}.expert_count"):
        new = "nemotron_h_moe"
    own = f"{old}."
    found = {
        f"{new}.{key.removeprefix(own)}" if key.startswith(own) else key: value
        for key, value in metadata.items()
    }
    found["general.architecture"] = new
    return _latent(found) if old == "glm4moelite" else found


def _latent(found: dict[str, Any]) -> dict[str, Any]:
    """The lengths of latent attention: Ollama's converter gives a head's where llama.cpp has the row's."""
    attention = "deepseek2.attention."
    rank, rope = found.get(f"{attention}kv_lora_rank"), found.get("deepseek2.rope.dimension_count")
    head = found.get(f"{attention}key_length")
    if not isinstance(rank, int) or not isinstance(rope, int) or head == rank + rope:
        return found
    lengths: dict[str, Any] = {"head_count_kv": 1, "key_length": rank + rope, "value_length": rank}
    lengths |= {"key_length_mla": head, "value_length_mla": head}
    return found | {f"{attention}{key}": value for key, value in lengths.items()}


def _renamed(tensor: TensorInfo, architecture: str) -> TensorInfo:
    name = tensor.name
    if name.startswith(BESIDE):
        return tensor
    for old, new in _NAMES.get(architecture, ()):
        name = name.replace(old, new)
    for old, new in _ENDINGS.get(architecture, ()):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return _as(tensor, tensor.name, name)


def _as(tensor: TensorInfo, old: str, new: str) -> TensorInfo:
    if tensor.name != old or new == old:
        return tensor
    return msgspec.structs.replace(tensor, name=new)
