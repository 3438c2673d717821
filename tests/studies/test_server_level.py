"""Settings of the whole server are proposed where the plan and the study's own trials promise a gain."""

from __future__ import annotations

import msgspec
import pytest

from narthex.engines._base import Limits
from narthex.memory.plan import Device
from narthex.models.inspection import Inspection
from narthex.studies.live_space import Machine, live_space
from narthex.studies.records import Goal, Question, ServerProposal
from narthex.studies.server_level import proposals
from narthex.testing.modelled_runner import ModelledRunner
from narthex.testing.study_builders import dense_model, machine, question, study
from narthex.trials.trial import TrialRecord
from narthex.units import GIB, MIB

VERSION = "0.33.0"
FREE = 7 * GIB
GPU = Device(name="CUDA0", kind="gpu", free_bytes=FREE, total_bytes=FREE)
MODELLED = machine(all_layers=17, layer_bytes=416 * MIB, kv_bytes=4096, gpu_free_bytes=FREE - 600 * MIB)
SERVER = Limits(
    fixed={"kv_type": "f16", "flash_attn": "auto", "parallel": 1, "cpu_moe": 0},
    why={"kv_type": "OLLAMA_KV_CACHE_TYPE is not set on the server"},
    one_batch=True,
)
LONG = question(min_ctx=32768, pins={"batch": 512, "ubatch": 512})


def changed(**fixed: object) -> Limits:
    return msgspec.structs.replace(SERVER, fixed={**SERVER.fixed, **fixed})


def on(host_gib: int = 64, **values: object) -> Machine:
    memory = Device(name="host", kind="host", free_bytes=host_gib * GIB, total_bytes=64 * GIB)
    return Machine(devices=(GPU, memory), cores=16, automatic_batch=512, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return dense_model(tmp_path_factory.mktemp("model") / "dense.gguf")


class Studied:
    """A study of a modelled machine under some limits, and what it makes propose."""

    def __init__(self, inspection: Inspection, limits: Limits, asked: Question, **values: object) -> None:
        self.inspection, self.limits, self.machine = inspection, limits, on(**values)  # type: ignore[arg-type]
        self.question = msgspec.structs.replace(asked, parallel=limits.fixed["parallel"])
        space = live_space(inspection, msgspec.structs.replace(self.machine, limits=limits), self.question)
        self.history = study(self.question, MODELLED, runner=ModelledRunner(MODELLED), within=space).trials

    def found(
        self,
        env: dict[str, str] | None = None,
        version: str | None = VERSION,
        history: tuple[TrialRecord, ...] | None = None,
    ) -> dict[str, ServerProposal]:
        rows = proposals(
            self.inspection,
            self.machine,
            self.question,
            self.history if history is None else history,
            self.limits,
            {} if env is None else env,
            version=version,
        )
        return {row.factor: row for row in rows}


@pytest.fixture(scope="module")
def usual(inspection: Inspection) -> Studied:
    return Studied(inspection, SERVER, LONG)


def test_a_smaller_cache_is_proposed_with_its_variables_gain_reason_and_cost(usual: Studied) -> None:
    row = usual.found()["kv_type"]
    assert row.words == "OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_FLASH_ATTENTION=1"
    assert row.knobs is not None
    assert (row.knobs.kv_type, row.knobs.flash_attn) == ("q8_0", "on")
    assert row.knobs.batch == row.knobs.ubatch
    assert row.gain_of == "turn"
    assert row.turn_s is not None
    assert row.over_turn_s is not None
    assert row.gain is not None
    assert row.gain == pytest.approx(row.over_turn_s / row.turn_s)
    assert row.gain > 1.05
    assert "makes room" in row.why
    assert "every model" in row.cost


def test_where_the_context_is_the_goal_the_gain_is_context(inspection: Inspection) -> None:
    longest = msgspec.structs.replace(LONG, goal=Goal.LONGEST, min_ctx=4096, min_decode_tps=18.0)
    row = Studied(inspection, SERVER, longest).found()["kv_type"]
    assert row.gain_of == "context"
    assert row.knobs is not None
    assert row.over_ctx is not None
    assert row.gain is not None
    assert row.gain == pytest.approx(row.knobs.num_ctx / row.over_ctx)
    assert row.gain > 1.05


def test_what_holds_already_is_not_proposed(inspection: Inspection) -> None:
    small = Studied(inspection, changed(kv_type="q8_0", flash_attn="on"), LONG)
    found = small.found({"OLLAMA_KEEP_ALIVE": "-1", "LLAMA_ARG_FIT_TARGET": "128"})
    assert not {"kv_type", "flash_attn", "keep_alive", "fit_target"} & set(found)


def test_flash_attention_is_named_only_where_it_is_not_on(inspection: Inspection) -> None:
    flash = Studied(inspection, changed(flash_attn="on"), LONG)
    assert flash.found()["kv_type"].env == {"OLLAMA_KV_CACHE_TYPE": "q8_0"}


def test_a_type_that_was_not_allowed_is_not_proposed(inspection: Inspection) -> None:
    strict = msgspec.structs.replace(LONG, allow_kv=("f16",))
    assert "kv_type" not in Studied(inspection, SERVER, strict).found()


def test_flash_attention_that_is_off_is_proposed(inspection: Inspection) -> None:
    row = Studied(inspection, changed(flash_attn="off"), LONG).found()["flash_attn"]
    assert row.env == {"OLLAMA_FLASH_ATTENTION": "1"}


def test_slots_that_take_the_memory_of_the_context_are_proposed_away(inspection: Inspection) -> None:
    row = Studied(inspection, changed(parallel=4), LONG).found()["parallel"]
    assert row.env == {"OLLAMA_NUM_PARALLEL": "1"}
    assert row.knobs is not None
    assert row.knobs.parallel == 1
    assert row.gain is not None
    assert row.gain > 1.3
    assert "wait" in row.cost


def test_less_free_memory_is_proposed_for_ollamas_own_placement(usual: Studied) -> None:
    row = usual.found()["fit_target"]
    assert int(row.env["LLAMA_ARG_FIT_TARGET"]) < 1024
    assert int(row.env["LLAMA_ARG_FIT_TARGET"]) * MIB >= usual.machine.reserve
    assert row.knobs is not None
    assert row.knobs.gpu_layers is None
    assert "GPU layers" in row.why


def test_what_a_version_does_not_read_is_not_proposed(usual: Studied) -> None:
    assert not {"fit_target", "cache_ram"} & set(usual.found(version="0.24.0"))
    assert "kv_type" in usual.found(version="0.24.0")
    assert "kv_type" not in usual.found(version="0.4.7")


def test_a_context_that_nobody_asked_for_and_that_costs_layers_is_proposed_away(
    inspection: Inspection,
) -> None:
    fast = msgspec.structs.replace(LONG, min_ctx=4096)
    large = Studied(inspection, SERVER, fast, default_ctx=32768)
    row = large.found()["num_ctx"]
    assert int(row.env["OLLAMA_CONTEXT_LENGTH"]) < 32768
    assert row.over_ctx == 32768
    assert "num_ctx" not in large.found({"OLLAMA_CONTEXT_LENGTH": "4096"})
    assert "num_ctx" not in Studied(inspection, SERVER, fast, default_ctx=4096).found()


def loaded_in(history: tuple[TrialRecord, ...], load_s: float) -> tuple[TrialRecord, ...]:
    return tuple(
        msgspec.structs.replace(row, observation=msgspec.structs.replace(row.observation, load_s=load_s))
        for row in history
    )


def test_a_model_that_takes_long_to_load_is_proposed_to_stay(usual: Studied) -> None:
    slow = loaded_in(usual.history, 60.0)
    row = usual.found(history=slow)["keep_alive"]
    assert (row.env, row.gain_of) == ({"OLLAMA_KEEP_ALIVE": "-1"}, "first turn")
    assert row.gain is not None
    assert row.gain > 1.5
    for kept in ("-1", "24h", "2562047h47m16.854775807s", "86400"):
        assert "keep_alive" not in usual.found({"OLLAMA_KEEP_ALIVE": kept}, history=slow)
    assert "keep_alive" not in usual.found(history=loaded_in(usual.history, 0.01))


def test_prompts_kept_in_main_memory_are_a_matter_where_it_is_short(usual: Studied) -> None:
    assert "cache_ram" not in usual.found()
    usual.machine = on(host_gib=6)
    row = usual.found()["cache_ram"]
    usual.machine = on()
    assert int(row.env["LLAMA_ARG_CACHE_RAM"]) < 8192
    assert (row.gain, row.gain_of) == (None, "memory")


def test_of_a_server_whose_environment_is_unknown_only_its_limits_are_used(usual: Studied) -> None:
    rows = proposals(
        usual.inspection, usual.machine, usual.question, usual.history, SERVER, None, version=VERSION
    )
    assert {row.factor for row in rows} == {"kv_type"}


def test_before_anything_worked_nothing_is_proposed(usual: Studied) -> None:
    assert not usual.found(history=())


def test_an_engine_that_fixes_nothing_gets_no_proposal(usual: Studied) -> None:
    assert not proposals(usual.inspection, usual.machine, usual.question, usual.history, Limits(), None)


def test_the_studys_own_space_saves_a_second_one_and_changes_no_answer(usual: Studied) -> None:
    machine = msgspec.structs.replace(usual.machine, limits=SERVER)
    space = live_space(usual.inspection, machine, usual.question)
    rows = proposals(
        usual.inspection,
        usual.machine,
        usual.question,
        usual.history,
        SERVER,
        {},
        version=VERSION,
        space=space,
    )
    assert {row.factor: row for row in rows} == usual.found()


def test_proposals_survive_the_journal(usual: Studied) -> None:
    rows = list(usual.found().values())
    stored = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(rows)))
    assert msgspec.convert(stored, list[ServerProposal]) == rows
