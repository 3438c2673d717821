"""Names of models, compared as Ollama compares them."""

from __future__ import annotations

import pytest

from narthex.policy.names import full_name, same_model


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("llama3", "registry.ollama.ai/library/llama3:latest"),
        ("Llama3:8B", "registry.ollama.ai/library/llama3:8b"),
        ("me/mine", "registry.ollama.ai/me/mine:latest"),
        ("hf.co/u/R-GGUF:Q4_K_M", "hf.co/u/r-gguf:q4_k_m"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("/models/file.gguf", "registry.ollama.ai/models/file.gguf:latest"),
        ("", "registry.ollama.ai/library/:latest"),
    ],
)
def test_what_is_left_out_has_a_default(name: str, full: str) -> None:
    assert full_name(name) == full


def test_the_tag_tells_models_apart() -> None:
    assert same_model("qwen3", "library/Qwen3:latest")
    assert not same_model("qwen3", "qwen3:30b")
