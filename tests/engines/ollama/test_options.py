"""Knobs as load options of Ollama, and the options of a model as knobs."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.engines._base import Limits
from narthex.engines.ollama.command import RunnerCommand
from narthex.engines.ollama.options import (
    against_parameters,
    command_options,
    describe_options,
    knobs_from,
    options_for,
    parameters_of,
    unloadable,
)
from narthex.errors import UsageError
from narthex.knobs import KnobValues

NEW, OLD = "0.33.0-rc2", "0.12.3"


def setting(num_ctx: int = 4096, batch: int = 512, **more: Any) -> KnobValues:
    return KnobValues(num_ctx=num_ctx, batch=batch, ubatch=batch, **more)


def test_ollamas_own_placement_sends_neither_layers_nor_the_batch_it_takes_by_itself() -> None:
    assert options_for(setting(), NEW) == {"num_ctx": 4096}
    assert options_for(setting(8192, 1024), NEW) == {"num_ctx": 8192}
    assert options_for(setting(65536, 2048), NEW) == {"num_ctx": 65536}


def test_all_slots_count_for_the_automatic_batch() -> None:
    assert options_for(setting(4096, 1024), NEW, parallel=4) == {"num_ctx": 4096}
    assert options_for(setting(4096, 512), NEW, parallel=4) == {"num_ctx": 4096, "num_batch": 512}


def test_before_0_30_the_automatic_batch_is_512_at_any_context() -> None:
    assert options_for(setting(65536, 512), OLD) == {"num_ctx": 65536}
    assert options_for(setting(65536, 2048), OLD) == {"num_ctx": 65536, "num_batch": 2048}


def test_given_layers_are_sent_with_their_batch() -> None:
    assert options_for(setting(gpu_layers=19), NEW) == {"num_ctx": 4096, "num_gpu": 19, "num_batch": 512}
    assert options_for(setting(gpu_layers=0), NEW)["num_gpu"] == 0


def test_threads_and_mmap_are_sent_only_where_they_are_given() -> None:
    options = options_for(setting(threads=8, mmap="off"), NEW)
    assert options == {"num_ctx": 4096, "num_thread": 8, "use_mmap": False}


@pytest.mark.parametrize("layers", [None, 0, 19])
@pytest.mark.parametrize("batch", [64, 512, 1024])
@pytest.mark.parametrize("threads", [None, 6])
@pytest.mark.parametrize("mmap", ["auto", "on", "off"])
def test_what_was_sent_reads_back_as_the_same_knobs(
    layers: int | None, batch: int, threads: int | None, mmap: str
) -> None:
    asked = setting(8192, batch, gpu_layers=layers, threads=threads, mmap=mmap)
    assert knobs_from(options_for(asked, NEW), setting(batch=batch)) == asked


def test_parameters_of_a_model_may_be_text_as_show_prints_them() -> None:
    shown = {"num_ctx": "1.048576e+06", "num_gpu": "19", "num_batch": "256", "use_mmap": "false", "stop": "x"}
    assert knobs_from(shown, setting()) == setting(1048576, 256, gpu_layers=19, mmap="off")


def test_values_that_mean_automatic_are_automatic() -> None:
    start = setting(gpu_layers=5, threads=4)
    assert knobs_from({"num_gpu": -1, "num_thread": 0}, start) == setting()


def test_other_parameters_change_nothing() -> None:
    assert knobs_from({"temperature": 0.1, "num_predict": 7}, setting()) == setting()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_ctx", "4096 # note"),
        ("num_gpu", "all"),
        ("num_batch", [1]),
        ("use_mmap", "maybe"),
        ("num_ctx", True),
    ],
)
def test_a_value_that_ollama_refuses_is_told_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        knobs_from({name: value}, setting())
    assert "plain value" in caught.value.hint


def test_options_are_described_in_one_order() -> None:
    assert describe_options({"num_batch": 256, "num_ctx": 8192, "use_mmap": False}) == (
        "num_ctx 8192 · num_batch 256 · use_mmap false"
    )
    assert describe_options({}) == "no options"


def test_two_batches_are_refused_where_the_engine_has_one() -> None:
    why = unloadable(KnobValues(batch=512, ubatch=256), Limits(one_batch=True))
    assert why is not None
    assert "512" in why
    assert "256" in why


def test_a_setting_of_the_whole_server_is_refused_with_its_source() -> None:
    limits = Limits(
        fixed={"kv_type": "q8_0"},
        why={"kv_type": "OLLAMA_KV_CACHE_TYPE is q8_0 on the server"},
        one_batch=True,
    )
    why = unloadable(setting(), limits)
    assert why is not None
    assert "OLLAMA_KV_CACHE_TYPE" in why
    assert unloadable(setting(kv_type="q8_0"), limits) is None


def test_flash_attention_left_to_the_engine_agrees_with_every_server() -> None:
    assert unloadable(setting(), Limits(fixed={"flash_attn": "on"})) is None
    assert unloadable(setting(flash_attn="off"), Limits(fixed={"flash_attn": "on"})) is not None


def test_parameters_of_the_model_are_overruled_where_ollama_shall_choose() -> None:
    asked = setting(threads=None)
    own = parameters_of('num_gpu    19\nnum_batch    64\nstop      "<|im_end|>"\nnum_ctx 8192\n')
    assert own == {"num_gpu": "19", "num_batch": "64", "stop": "<|im_end|>", "num_ctx": "8192"}
    sent = against_parameters(options_for(asked, NEW), own, asked)
    assert sent == {"num_ctx": 4096, "num_gpu": -1, "num_batch": 512}
    assert against_parameters(options_for(asked, NEW), {}, asked) == {"num_ctx": 4096}


def test_a_runners_command_line_reads_as_the_options_that_led_to_it() -> None:
    command = RunnerCommand(num_ctx=4096, ubatch=512, mmap=False)
    assert command_options(command) == {"num_ctx": 4096, "num_batch": 512, "use_mmap": False}
