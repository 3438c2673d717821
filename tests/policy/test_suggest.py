"""Roles that are obvious from size and kind, and none that are not."""

from __future__ import annotations

from narthex.policy.suggest import SeenModel, suggest_roles

GIB = 2**30


def seen(name: str, gib: float, embeds: bool = False) -> SeenModel:
    return SeenModel(name=name, size_bytes=int(gib * GIB), embeds=embeds)


STACK = (
    seen("mixtral:latest", 26),
    seen("qwen3:30b", 18.6),
    seen("deepseek-r1:32b", 19.9),
    seen("mistral-nemo:latest", 7.1),
    seen("llama3.2:3b", 2),
    seen("qwen2.5-coder:14b", 9),
    seen("nomic-embed-text:latest", 0.3, embeds=True),
)


def roles(models: tuple[SeenModel, ...], vram_gib: float | None) -> dict[str, str]:
    vram = int(vram_gib * GIB) if vram_gib is not None else None
    return {row.role: row.name for row in suggest_roles(models, vram)}


def test_the_largest_that_fits_the_smallest_and_the_only_embedder() -> None:
    assert roles(STACK, 24) == {
        "quality": "deepseek-r1:32b",
        "fast": "llama3.2:3b",
        "code": "qwen2.5-coder:14b",
        "embed": "nomic-embed-text:latest",
    }
    assert roles(STACK, 22.5)["quality"] == "qwen3:30b"


def test_another_name_over_the_same_file_is_no_second_model() -> None:
    again = SeenModel(name="tiny:latest", size_bytes=GIB, same_as="mixtral:latest")
    assert roles((*STACK, again), 24) == roles(STACK, 24)


def test_each_has_a_reason_with_its_sizes() -> None:
    reasons = {row.role: row.why for row in suggest_roles(STACK, 24 * GIB)}
    assert reasons["quality"] == "the largest one that fits the card with a context: 19.9 GiB of 24.0 GiB"
    assert reasons["fast"] == "the smallest one that chats: 2.00 GiB"


def test_without_a_known_card_nothing_is_said_about_quality() -> None:
    assert "quality" not in roles(STACK, None)
    assert roles(STACK, None)["fast"] == "llama3.2:3b"


def test_one_model_alone_gets_no_role() -> None:
    assert roles((seen("llama3:8b", 5),), 24) == {}
    assert roles((), 24) == {}


def test_models_of_one_size_have_no_fast_one_among_them() -> None:
    assert "fast" not in roles((seen("a", 5), seen("b", 6)), 24)


def test_of_two_embedders_none_is_obvious() -> None:
    two = (seen("a", 1, embeds=True), seen("b", 1, embeds=True))
    assert roles(two, 24) == {}
