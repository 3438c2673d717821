"""What the server needs of a GGUF file: its metadata, its tensors, and figures made of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex.errors import ModelFileError
from narthex.models.architectures import KNOWN
from narthex.models.header import Header, read_header
from narthex.models.inspection import ArrayLength
from narthex.models.quants import MIXES
from narthex.testing.ollama.gguf_arrays import read_arrays
from narthex.testing.ollama.gowords import count

_HEADER_BYTES = 64 * 2**20
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
    def known(self) -> bool:
        """Whether llama.cpp knows the architecture, as far as narthex knows."""
        return self.architecture in KNOWN

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
        arrays = read_arrays(self.blob) if verbose else {}
        values: dict[str, Any] = {}
        for key, value in self.header.metadata.items():
            if key not in _HIDDEN:
                is_array = isinstance(value, tuple | list | ArrayLength)
                values[key] = _plain(arrays.get(key) if is_array else value)
        values["general.parameter_count"] = self.parameters
        return dict(sorted(values.items()))

    def tensors(self) -> list[dict[str, Any]]:
        """``tensors`` of show: fastest axis first."""
        return [
            {"name": tensor.name, "type": tensor.type_name, "shape": list(tensor.dims)}
            for tensor in self.header.tensors
        ]


class BadModel(Exception):
    """A file that Ollama refuses, with Ollama's words."""


_READ: dict[tuple[str, int, int], ModelFile] = {}  # path, size, time of change


def read_model(blob: Path) -> ModelFile:
    """The file as it is now. Raises BadModel, and FileNotFoundError where it is gone."""
    info = blob.stat()
    key = (str(blob), info.st_size, info.st_mtime_ns)
    if key not in _READ:
        try:
            _READ[key] = ModelFile(blob, read_header(blob))
        except ModelFileError as error:
            raise BadModel(_why_bad(blob, str(error))) from None
    return _READ[key]


def _why_bad(blob: Path, words: str) -> str:
    """A file that was cut names the first tensor beyond its end."""
    with blob.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    if start[:4] != b"GGUF":
        return "invalid file magic"
    with tempfile.NamedTemporaryFile() as whole:  # the same header in a file that is long enough, all holes
        whole.write(start)
        whole.truncate(2**40)
        try:
            header = read_header(Path(whole.name))
        except (ModelFileError, OSError):
            return words
    size = blob.stat().st_size
    for tensor in header.tensors:
        end = header.data_offset + tensor.offset + tensor.nbytes
        if end > size:
            return f'tensor "{tensor.name}" offset+size ({end}) exceeds file size ({size})'
    return words


def _plain(value: Any) -> Any:
    """A number as Go prints it: a float without a fraction loses its point, an f32 its noise."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        value = float(f"{value:.7g}")
        return int(value) if value.is_integer() and abs(value) < 1e21 else value
    return value


def config_of(model: ModelFile, layers: list[dict[str, Any]], parent: str) -> dict[str, Any]:
    """The config blob of a model."""
    details = model.details(parent)
    return {
        "model_format": "gguf",
        "model_family": details["family"],
        "model_families": details["families"],
        "model_type": details["parameter_size"],
        "file_type": details["quantization_level"],
        "context_length": model.context_train,
        "embedding_length": model.number("embedding_length"),
        "capabilities": model.capabilities,
        "parent_model": parent,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [entry["digest"] for entry in layers]},
    }
