"""What Ollama can say of a profile, and the nearest where it can't."""

from __future__ import annotations

import msgspec
import pytest

from narthex.engines._base import Limits
from narthex.knobs import KnobValues
from narthex.memory.plan import Device, plan_memory
from narthex.models.gguf import inspect_file
from narthex.profiles.express import UNSET, Expressed, express, fitted, own_limits, server_variables
from narthex.testing.samples import KNOBS, profile
from narthex.units import MIB

PLAIN = KnobValues(num_ctx=4096, gpu_layers=33, batch=256, ubatch=256)


def test_a_setting_of_request_options_is_said_exactly() -> None:
    assert express(profile(knobs=PLAIN), UNSET) == Expressed(knobs=PLAIN)


def test_batch_and_micro_batch_become_one_number_the_smaller() -> None:
    found = express(profile(knobs=PLAIN.with_(batch=2048)), UNSET)
    assert found.knobs == PLAIN
    assert found.differences == ("batch 2048 with a micro-batch of 256: Ollama has one num_batch for both",)


def test_each_thing_that_is_server_wide_is_a_difference_with_its_reason() -> None:
    wanted = PLAIN.with_(kv_type="q8_0", flash_attn="off", parallel=4, cpu_moe=6)
    found = express(profile(knobs=wanted), UNSET)
    assert found.knobs == PLAIN
    assert len(found.differences) == 4
    assert found.differences[0] == "KV type q8_0: the server has f16 (OLLAMA_KV_CACHE_TYPE is not set)"


def test_a_server_with_the_variables_set_says_all_of_it() -> None:
    wanted = KNOBS.with_(batch=128, parallel=2)
    assert express(profile(knobs=wanted), own_limits(wanted)).differences == ()


def test_flash_attention_on_is_what_auto_does() -> None:
    assert express(profile(knobs=PLAIN.with_(flash_attn="on")), UNSET).differences == ()
    assert express(profile(knobs=PLAIN.with_(flash_attn="off")), UNSET).differences != ()


def test_a_limit_without_a_reason_still_reads_well() -> None:
    found = express(profile(knobs=PLAIN), Limits(fixed={"parallel": 2}))
    assert found.differences == ("slots 1: the server has 2 (it is the same for the whole server)",)


def test_a_larger_cache_type_costs_layers_by_the_plan(gemma: object) -> None:
    inspection = inspect_file(str(gemma))
    layers = inspection.layers + 1
    knobs = KnobValues(num_ctx=32768, gpu_layers=layers, batch=512, ubatch=512)
    host = Device(name="host", kind="host")
    need = plan_memory(inspection, knobs, (Device(name="GPU0", kind="gpu"), host)).devices[0].need_bytes
    small = Device(name="GPU0", kind="gpu", free_bytes=need - MIB, total_bytes=need)
    found = fitted(Expressed(knobs=knobs), inspection, (small, host))
    assert found.knobs.gpu_layers is not None
    assert found.knobs.gpu_layers < layers
    assert "fit then, by the plan" in found.differences[-1]


def test_what_fits_keeps_its_layers(gemma: object) -> None:
    inspection = inspect_file(str(gemma))
    asked = Expressed(knobs=PLAIN.with_(gpu_layers=5))
    big = Device(name="GPU0", kind="gpu", free_bytes=2**34, total_bytes=2**34)
    assert fitted(asked, inspection, (big, Device(name="host", kind="host"))) == asked
    assert fitted(asked, inspection, (Device(name="host", kind="host"),)) == asked


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({}, {}),
        ({"flash_attn": "on"}, {}),
        ({"flash_attn": "off"}, {"OLLAMA_FLASH_ATTENTION": "0"}),
        (
            {"kv_type": "q8_0", "flash_attn": "on"},
            {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1"},
        ),
        ({"parallel": 2, "cpu_moe": 4}, {"OLLAMA_NUM_PARALLEL": "2", "LLAMA_ARG_N_CPU_MOE": "4"}),
    ],
)
def test_the_servers_variables_are_only_those_that_are_needed(
    changes: dict[str, object], variables: dict[str, str]
) -> None:
    assert server_variables(msgspec.structs.replace(PLAIN, **changes)) == variables
