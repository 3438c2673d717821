"""Knobs become the flags that a build knows, and never something else than was asked."""

from __future__ import annotations

import msgspec
import pytest

from narthex.engines._base import Engine
from narthex.engines.llama_arguments import FlagMissing, arguments, knob_arguments
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome

OLD_FLAGS = frozenset({"-ngl", "-np", "-ctk", "-ctv", "-fa", "-c", "-b", "-ub", "-t", "-tb"})
TODAY = Engine(
    kind="llama-server",
    path="/bin/llama-server",
    source="PATH",
    build="b11434",
    flags=OLD_FLAGS | {"-fit", "-ncmoe", "-cram", "--no-ui", "--slots", "-lv"},
    traits=frozenset({"flash-attn-value", "verbosity-levels"}),
    devices=(),
)
OF_2024 = msgspec.structs.replace(
    TODAY,
    build="b3000",
    flags=OLD_FLAGS,
    traits=frozenset(),
)


def value(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


def test_the_context_is_for_each_slot() -> None:
    words = knob_arguments(TODAY, KnobValues(num_ctx=8192, parallel=3))
    assert (value(words, "-c"), value(words, "-np")) == ("24576", "3")


def test_chosen_layers_switch_the_engines_own_placement_off() -> None:
    words = knob_arguments(TODAY, KnobValues(gpu_layers=33))
    assert (value(words, "-ngl"), value(words, "-fit")) == ("33", "off")


def test_layers_left_to_the_engine_leave_its_placement_on() -> None:
    words = knob_arguments(TODAY, KnobValues(gpu_layers=None))
    assert "-ngl" not in words
    assert "-fit" not in words


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_flash_attention_takes_a_value_today(word: str) -> None:
    assert value(knob_arguments(TODAY, KnobValues(flash_attn=word)), "-fa") == word


def test_flash_attention_was_a_switch_in_2024() -> None:
    on = knob_arguments(OF_2024, KnobValues(flash_attn="on"))
    assert "-fa" in on
    assert "on" not in on
    assert "-fa" not in knob_arguments(OF_2024, KnobValues(flash_attn="off"))


def test_both_halves_of_the_cache_get_its_type() -> None:
    words = knob_arguments(TODAY, KnobValues(kv_type="q8_0"))
    assert (value(words, "-ctk"), value(words, "-ctv")) == ("q8_0", "q8_0")
    assert "-ctk" not in knob_arguments(TODAY, KnobValues(kv_type="f16"))


def test_threads_count_for_prompts_too() -> None:
    words = knob_arguments(TODAY, KnobValues(threads=6))
    assert (value(words, "-t"), value(words, "-tb")) == ("6", "6")
    assert "-t" not in knob_arguments(TODAY, KnobValues(threads=None))


def test_a_knob_without_a_flag_is_a_failure_that_names_both() -> None:
    with pytest.raises(FlagMissing) as caught:
        knob_arguments(OF_2024, KnobValues(cpu_moe=4))
    assert caught.value.failure.outcome is Outcome.UNSUPPORTED_FLAG
    assert "b3000" in caught.value.failure.line
    assert "--cpu-moe" in caught.value.failure.line


def test_an_old_build_gets_no_flag_that_it_does_not_know() -> None:
    words = arguments(OF_2024, "m.gguf", KnobValues(gpu_layers=3), 8080)
    assert not {"-fit", "-cram", "--slots", "-lv", "--no-ui"} & set(words)


def test_extra_arguments_come_first_and_the_server_stays_on_loopback() -> None:
    engine = msgspec.structs.replace(TODAY, extra_args=("--rpc", "127.0.0.1:50052"))
    words = arguments(engine, "m.gguf", KnobValues(), 8123)
    assert words[:3] == ["/bin/llama-server", "--rpc", "127.0.0.1:50052"]
    assert (value(words, "--host"), value(words, "--port")) == ("127.0.0.1", "8123")
    assert (value(words, "-m"), value(words, "-lv"), value(words, "-cram")) == ("m.gguf", "4", "0")
