"""The first narthex.toml: it loads, whatever a server calls its models, and decides nothing by itself."""

from __future__ import annotations

import re

import pytest

from narthex.policy import read_policy
from narthex.policy.records import NAMED_SECTIONS, SECTIONS, keys_of
from narthex.policy.suggest import SeenModel
from narthex.views.policy_draft import FirstLook, policy_draft

GIB = 2**30
MODELS = (
    SeenModel(name="qwen3:30b", size_bytes=18 * GIB, words="Q4_K_M, qwen3moe", loaded=True),
    SeenModel(name="mixtral:latest", size_bytes=26 * GIB),
    SeenModel(name="llama3.2:3b", size_bytes=2 * GIB),
)
LOOK = FirstLook(
    host=("NVIDIA RTX 4000 Ada, 24.0 GiB of VRAM",),
    vram_bytes=24 * GIB,
    ollama="Ollama 0.33.0 at http://127.0.0.1:11434, 3 models",
    models=MODELS,
    comfyui="ComfyUI 0.13.0 at http://127.0.0.1:8188",
)


def without_marks(text: str) -> str:
    """Every suggestion taken: the «#» before each key and table away."""
    return re.sub(r"^# (\[|\w+ = )", r"\1", text, flags=re.MULTILINE)


def test_what_is_written_loads_with_the_house_defaults_alone() -> None:
    policy = read_policy(policy_draft(FirstLook()))
    assert (policy.defaults.num_ctx, policy.defaults.num_gpu, policy.defaults.num_batch) == (4096, 19, 256)
    assert policy.policy.backoff == ("num_ctx", "gpu_layers", "batch")
    assert policy.policy.grow == "ctx"
    assert policy.policy.soak == 150.0
    assert policy.models == ()
    assert policy.beside == ()
    assert policy.ollama.host is None


def test_what_was_found_is_suggested_with_reasons() -> None:
    text = policy_draft(LOOK)
    assert '# quality = "qwen3:30b"    # the largest one that fits' in text
    assert '# fast = "llama3.2:3b"    # the smallest one' in text
    assert '# [models."qwen3:30b"]    # 18.0 GiB, Q4_K_M, qwen3moe, loaded now' in text
    assert '# [models."mixtral:latest"]    # 26.0 GiB, does not fit the card' in text
    assert read_policy(text).roles == {}


def test_a_comfyui_that_is_there_is_a_tenant() -> None:
    assert read_policy(policy_draft(LOOK)).tenant("comfyui") is not None


def test_a_server_that_was_named_is_written_down() -> None:
    look = FirstLook(ollama_host="http://10.0.0.7:11434")
    assert read_policy(policy_draft(look)).ollama.host == "http://10.0.0.7:11434"


@pytest.mark.parametrize("look", [FirstLook(), LOOK])
def test_each_suggestion_can_be_taken(look: FirstLook) -> None:
    policy = read_policy(without_marks(policy_draft(look)))
    assert policy.tenant("blender") is not None
    assert policy.policy.reserve == 512 * 2**20
    assert policy.for_model("NAME").removal == "why"


def test_every_key_of_the_two_main_tables_is_shown() -> None:
    text = policy_draft(FirstLook())
    for section in (SECTIONS["defaults"], SECTIONS["policy"], SECTIONS["ollama"], NAMED_SECTIONS["beside"]):
        for key in keys_of(section):
            assert re.search(rf"^(# )?{key} = ", text, flags=re.MULTILINE), key


@pytest.mark.parametrize(
    "name",
    ['a"b', "a\\b", "a\nb = 1\n[policy]\nsoak = 1", "\x1b[31mred", "ünï:code", "a\x7fb", "a\ud800b"],
)
def test_a_name_that_a_server_makes_up_does_no_harm(name: str) -> None:
    odd = SeenModel(name=name, size_bytes=GIB, words=name)
    look = FirstLook(models=(*MODELS, odd), vram_bytes=24 * GIB, host=(name,), gaps=(name,))
    text = policy_draft(look)
    assert read_policy(text) == read_policy(policy_draft(FirstLook(models=MODELS)))
    assert "\x1b" not in text
    assert read_policy(without_marks(text)).models
