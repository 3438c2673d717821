"""What the server needs of a GGUF file: its metadata, its tensors, and figures made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex.models.header import Header, read_header
from narthex.models.inspection import ArrayLength
from narthex.models.quants import MIXES
from narthex.testing.ollama.gowords import count

_HIDDEN = ("general.name", "tokenizer.chat_template")
_ONE_SLOT = ("mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe")


@dataclass(frozen=True)
class ModelFile:
    """One GGUF file. ``blob`` is its path in the store."""

    blob: Path
    header: Header

    def number(self, key: str, default: int = 0) -> int:
        """``<architecture>.<key>``; of a list the largest."""
        value = self.header.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, tuple | list):
            return max((int(item) for item in value), default=default)
        return int(value) if isinstance(value, int | float) else default

    @property
    def architecture(self) -> str:
        """``gemma3``."""
        return str(self.header.metadata.get("general.architecture", "unknown"))

    @property
    def context_train(self) -> int:
        """The trained length; 0 where the file does not tell."""
        return self.number("context_length")

    @property
    def chat_template(self) -> str:
        """The Jinja template inside the file."""
        return str(self.header.metadata.get("tokenizer.chat_template") or "")

    @property
    def capabilities(self) -> list[str]:
        """``completion`` or ``embedding``, and what the chat template shows."""
        if f"{self.architecture}.pooling_type" in self.header.metadata:
            return ["embedding"]
        found = ["completion"]
        if "tools" in self.chat_template:
            found.append("tools")
        if "<think>" in self.chat_template:
            found.append("thinking")
        return found

    @property
    def embedding(self) -> bool:
        """Whether it is for embeddings only."""
        return self.capabilities == ["embedding"]

    @property
    def one_slot(self) -> bool:
        """Whether parallel requests are not served by this kind of model."""
        return self.embedding or self.architecture in _ONE_SLOT or self.architecture.startswith("nemotron_h")

    @property
    def parameters(self) -> int:
        """All weights, counted."""
        return sum(tensor.elements for tensor in self.header.tensors)

    @property
    def quantization(self) -> str:
        """``Q4_K_M``; ``unknown`` where the file does not tell."""
        return MIXES.get(self.header.metadata.get("general.file_type", -1), "unknown")

    def details(self, parent: str) -> dict[str, Any]:
        """``details`` of tags, show and ps."""
        return {
            "parent_model": parent,
            "format": "gguf",
            "family": self.architecture,
            "families": [self.architecture],
            "parameter_size": count(self.parameters),
            "quantization_level": self.quantization,
        }

    def predicted(self, total_ctx: int) -> int:
        """The scheduler's own guess of memory, in bytes: the file, and a plain f16 cache in every layer."""
        heads = self.header.metadata.get(f"{self.architecture}.attention.head_count_kv", 0)
        least = (
            min(heads)
            if isinstance(heads, tuple | list) and heads
            else self.number("attention.head_count_kv")
        )
        width = self.number("embedding_length") // max(self.number("attention.head_count", 1), 1)
        cache = 2 * self.number("block_count") * int(least) * width * total_ctx * 2
        return self.header.file_bytes + cache

    def model_info(self, verbose: bool) -> dict[str, Any]:
        """``model_info`` of show: arrays are null unless asked with ``verbose``."""
        arrays = _whole_arrays(self.blob) if verbose else {}
        values: dict[str, Any] = {}
        for key, value in self.header.metadata.items():
            if key not in _HIDDEN:
                is_array = isinstance(value, tuple | list | ArrayLength)
                values[key] = arrays.get(key) if is_array else _plain(value)
        values["general.parameter_count"] = self.parameters
        return dict(sorted(values.items()))

    def tensors(self) -> list[dict[str, Any]]:
        """``tensors`` of show: fastest axis first."""
        return [
            {"name": tensor.name, "type": tensor.type_name, "shape": list(tensor.dims)}
            for tensor in self.header.tensors
        ]


def read_model(blob: Path) -> ModelFile:
    """Raises ModelFileError for anything that is no whole GGUF file."""
    return ModelFile(blob, read_header(blob))


def _plain(value: Any) -> Any:
    """A number as Go prints it: a float without a fraction loses its point, an f32 its noise."""
    if isinstance(value, float):
        value = float(f"{value:.7g}")
        return int(value) if value.is_integer() and abs(value) < 1e21 else value
    return value


def _whole_arrays(path: Path) -> dict[str, list[Any]]:
    """Every array of the metadata, at full length; takes seconds for a large vocabulary."""
    from gguf import GGUFReader  # of the test tools

    found = {}
    for key, field in GGUFReader(path).fields.items():
        value = field.contents()
        if isinstance(value, list):
            found[key] = [_plain(item) for item in value]
    return found
