"""The example is a whole policy that holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex import settings
from narthex.house import backoff_order, growth, house_knobs
from narthex.policy import load_policy

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "prometheus.toml"


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_CONFIG", str(EXAMPLE))


def test_roles_are_those_of_the_stack() -> None:
    policy = load_policy()
    assert policy.for_model("qwen3:30b").role == "quality"
    assert policy.for_model("mistral-nemo").role == "fast"
    assert policy.for_model("deepseek-r1:32b").role == "stable"


def test_the_stable_model_starts_with_its_context_and_gives_up_context_first() -> None:
    knobs = house_knobs("deepseek-r1:32b", layers=64)
    assert (knobs.num_ctx, knobs.gpu_layers, knobs.batch) == (3500, 19, 256)
    assert backoff_order("deepseek-r1:32b") == ("num_ctx", "gpu_layers", "batch")


def test_the_context_grows_only_after_a_soak() -> None:
    assert growth("qwen3:30b") == "ctx"
    assert settings.get("soak") == 150.0
    assert settings.get("reserve") == 512 * 2**20


def test_two_models_are_candidates_for_removal() -> None:
    policy = load_policy()
    assert [model.name for model in policy.models if model.removal] == ["mixtral", "llama3"]


def test_comfyui_is_the_tenant() -> None:
    assert load_policy().tenant("comfyui") is not None


def test_the_gateway_keeps_the_card_for_nobody_and_says_who_answers_instead() -> None:
    policy = load_policy()
    assert not policy.gateway.pins
    assert policy.gateway.comfyui == "lease"
    assert policy.roles["quality"].fallbacks == ("mistral-nemo",)
    assert policy.roles["stable"].keep_alive == 7200.0
