"""From a study's result to a profile."""

from __future__ import annotations

import msgspec
import pytest

from narthex.errors import ProfileError
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.profiles.choose import name_for, profile_from, with_soak
from narthex.profiles.profile import Profile
from narthex.studies.records import Goal, Question, StudyResult
from narthex.testing.samples import (
    CARD,
    KNOBS,
    engine,
    host,
    profile,
    soak_report,
    study_result,
    trial_record,
)
from narthex.trials.trial import ModelRef
from narthex.units import GIB


def chosen(result: StudyResult) -> Profile:
    return profile_from(result, engine=engine(), host=host(), created_at=1.0)


def test_a_profile_says_what_it_was_true_of() -> None:
    made = chosen(study_result())
    assert made.name == "demo-7b-fastest-8k"
    assert (made.engine_build, made.gpu, made.driver, made.host_key) == ("b11434", CARD, "580.65", "host-1")
    assert (made.knobs, made.study, made.goal) == (KNOBS, "20260101-abc123", "fastest")
    assert made.verdict.startswith("All layers fit")
    assert (made.turn_s, made.decode_tps, made.prompt_tps) == (4.5, 60.0, 1600.0)
    assert made.created_at == 1.0


def test_a_survived_soak_proves_it() -> None:
    made = chosen(study_result(soaks=[soak_report(150)]))
    assert (made.proven, made.soak_s) == (True, 150)


def test_without_a_soak_it_is_not_proven() -> None:
    made = chosen(study_result(soaks=[]))
    assert (made.proven, made.soak_s) == (False, 0)


def test_a_soak_that_ended_badly_leaves_it_unproven() -> None:
    made = chosen(study_result(soaks=[soak_report(), soak_report(30, outcome=Outcome.UNSTABLE)]))
    assert (made.proven, made.soak_s) == (False, 150)


def test_soaks_of_another_setting_do_not_count() -> None:
    other = KNOBS.with_(num_ctx=4096)
    made = chosen(study_result(chosen=other, trials=[trial_record(1, knobs=other)]))
    assert (made.proven, made.soak_s) == (False, 0)


def test_confirming_trials_count_more_than_those_of_the_search() -> None:
    trials = [trial_record(1, turn_s=3.0)]
    trials += [trial_record(number, turn_s=5.0, purpose="confirm") for number in (2, 3)]
    assert chosen(study_result(trials=trials)).turn_s == 5.0


def test_failed_trials_of_the_winner_are_no_figures() -> None:
    trials = [trial_record(1), trial_record(2, outcome=Outcome.OUT_OF_MEMORY)]
    assert chosen(study_result(trials=trials)).turn_s == 4.5


def test_a_winner_that_was_only_a_baseline_has_that_baselines_figures() -> None:
    assert chosen(study_result(trials=[], soaks=[], chosen=KnobValues(num_ctx=8192))).turn_s == 28.0


def test_the_peak_of_memory_is_taken_from_trials_and_soaks() -> None:
    assert chosen(study_result()).vram_peak_bytes == 19 * GIB


def test_a_study_that_recommends_nothing_gives_no_profile() -> None:
    with pytest.raises(ProfileError, match="recommends nothing"):
        chosen(study_result(chosen=None))
    with pytest.raises(ProfileError, match="recommends nothing"):
        chosen(study_result(model=None))


def test_a_demo_is_marked_and_never_takes_a_real_ones_name() -> None:
    made = chosen(study_result(demo=True))
    assert made.demo
    assert made.name == "demo-7b-fastest-8k-demo"


@pytest.mark.parametrize(
    ("name", "num_ctx", "parallel", "expected"),
    [
        ("DeepSeek R1 Distill Qwen 32B", 8192, 1, "deepseek-r1-distill-qwen-32b-fastest-8k"),
        ("Qwen2.5-Coder (Q4_K_M)", 6000, 1, "qwen2.5-coder-q4-k-m-fastest-6000"),
        ("Modèle Été", 131072, 4, "modele-ete-fastest-128kx4"),
        ("模型", 512, 1, "model-fastest-512"),
    ],
)
def test_a_name_is_fit_for_a_shell(name: str, num_ctx: int, parallel: int, expected: str) -> None:
    knobs = KNOBS.with_(num_ctx=num_ctx, parallel=parallel)
    assert name_for(profile(model=ModelRef(path="/m", identity="i", name=name), knobs=knobs)) == expected


def test_on_a_cpu_there_is_no_card() -> None:
    made = profile_from(study_result(), engine=engine(device=None), host=host(card=None, driver=None))
    assert (made.gpu, made.driver) == (None, None)


def test_a_card_that_only_the_engine_knows_is_named_by_it() -> None:
    made = profile_from(study_result(), engine=engine(device="llvmpipe"), host=host(card=None, driver=None))
    assert made.gpu == "llvmpipe"


def test_soak_times_add_up_and_a_bad_one_takes_the_proof_away() -> None:
    longer = with_soak(profile(), soak_report(300))
    assert (longer.proven, longer.soak_s) == (True, 450)
    broken = with_soak(longer, soak_report(20, outcome=Outcome.UNSTABLE))
    assert (broken.proven, broken.soak_s) == (False, 450)


def test_a_soak_that_was_stopped_adds_its_time_and_proves_nothing() -> None:
    report = soak_report(60, outcome=Outcome.INTERRUPTED)
    assert with_soak(profile(soak_s=0), report).proven is False
    assert with_soak(profile(), report).proven is True
    assert with_soak(profile(), report).soak_s == 210


@pytest.mark.parametrize("outcome", [Outcome.QUEUE_FULL, Outcome.CLIENT_GONE])
def test_a_soak_that_others_cut_off_takes_no_proof_away(outcome: Outcome) -> None:
    cut_off = soak_report(20, outcome=outcome)
    assert (with_soak(profile(), cut_off).proven, with_soak(profile(), cut_off).soak_s) == (True, 150)


@pytest.mark.parametrize(
    ("served_as", "expected"),
    [
        ("deepseek-r1:32b", "deepseek-r1-32b-balanced-4k"),
        ("llama3.2:latest", "llama3.2-balanced-4k"),
        ("registry.ollama.ai/library/qwen3:30b-a3b", "qwen3-30b-a3b-balanced-4k"),
        ("someone/mine:q4", "someone-mine-q4-balanced-4k"),
    ],
)
def test_a_model_in_ollama_goes_by_the_name_that_its_user_types(served_as: str, expected: str) -> None:
    model = ModelRef(path="/blobs/sha256-1", identity="i", name="DeepSeek R1 Distill", served_as=served_as)
    served = msgspec.structs.replace(engine(), kind="ollama")
    knobs = KNOBS.with_(num_ctx=4096, kv_type="f16")
    result = msgspec.structs.replace(
        study_result(model=model), question=Question(goal=Goal.BALANCED), chosen=knobs
    )
    made = profile_from(result, engine=served, host=host())
    assert (made.name, made.engine_kind, made.model.served_as) == (expected, "ollama", served_as)
    other = msgspec.structs.replace(result, chosen=knobs.with_(kv_type="q8_0"))
    assert profile_from(other, engine=served, host=host()).name == f"{expected}-q8_0"


def test_the_same_blob_in_llama_server_goes_by_the_models_own_name() -> None:
    model = ModelRef(path="/blobs/sha256-1", identity="i", name="Own Name", served_as="demo:7b")
    assert chosen(study_result(model=model)).name == "own-name-fastest-8k"
