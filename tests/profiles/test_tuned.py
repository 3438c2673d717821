"""The tuned model in Ollama: its name, its parameters, and what may never be touched."""

from __future__ import annotations

import msgspec
import pytest

from narthex.engines._base import LoadReport
from narthex.engines.ollama.records import Tag
from narthex.errors import ProfileError
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.profiles.tuned import (
    Tuning,
    made_here,
    modelfile,
    must_be_free,
    not_as_measured,
    parameters_for,
    tuned_name,
)
from narthex.testing.samples import profile
from narthex.trials.observation import Observation

NEW = "0.33.0"
KNOBS = KnobValues(num_ctx=4096, gpu_layers=33, batch=256, ubatch=256)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("deepseek-r1:32b", "deepseek-r1:32b-narthex"),
        ("gemma3-270m:latest", "gemma3-270m-narthex"),
        ("hf.co/bartowski/Some-GGUF:Q4_K_M", "hf.co/bartowski/Some-GGUF:Q4_K_M-narthex"),
    ],
)
def test_a_tuned_model_is_called_after_its_source(source: str, name: str) -> None:
    assert tuned_name(source) == name


def test_a_modelfile_has_nothing_behind_a_value() -> None:
    text = modelfile("mistral-nemo", {"num_ctx": 8192, "num_gpu": 41, "use_mmap": False})
    assert (
        text == "FROM mistral-nemo\nPARAMETER num_ctx 8192\nPARAMETER num_gpu 41\nPARAMETER use_mmap false\n"
    )


def test_what_the_source_sets_and_the_profile_leaves_open_is_said_as_automatic() -> None:
    automatic = KnobValues(num_ctx=4096, gpu_layers=None, batch=512, ubatch=512)
    assert parameters_for(automatic, NEW, {}) == {"num_ctx": 4096}
    base = {"num_gpu": 10, "num_thread": 64, "num_batch": 32, "temperature": 0.1}
    assert parameters_for(automatic, NEW, base) == {
        "num_ctx": 4096,
        "num_gpu": -1,
        "num_thread": 0,
        "num_batch": 512,
    }


def test_the_sources_own_mmap_counts_as_it_did_in_the_trials() -> None:
    assert "use_mmap" not in parameters_for(KNOBS, NEW, {"use_mmap": False})
    assert parameters_for(KNOBS.with_(mmap="on"), NEW, {"use_mmap": False})["use_mmap"] is True


def test_the_original_is_never_changed() -> None:
    tuning = Tuning(name="Llama3:latest", source="llama3", parameters={})
    with pytest.raises(ProfileError, match="never changed"):
        must_be_free(tuning, profile(), ())


def test_somebody_elses_model_of_that_name_is_left_alone() -> None:
    tuning = Tuning(name="llama3-narthex", source="llama3", parameters={})
    other = Tag(name="llama3-narthex:latest", digest="b" * 64)
    with pytest.raises(ProfileError, match="already"):
        must_be_free(tuning, profile(), (other,))
    mine = msgspec.structs.replace(profile(), applied_as="llama3-narthex", applied_digest="a" * 64)
    with pytest.raises(ProfileError, match="already"):
        must_be_free(tuning, mine, (other,))
    ours = msgspec.structs.replace(other, digest="a" * 64)
    must_be_free(tuning, mine, (ours,))
    assert made_here(mine, ours)
    with pytest.raises(ProfileError, match=f"another profile, {mine.name}") as caught:
        must_be_free(tuning, profile("new"), (ours,), [mine])
    assert f"narthex unapply {mine.name}" in caught.value.hint


def test_a_profile_stands_under_one_name_at_a_time() -> None:
    mine = msgspec.structs.replace(profile(), applied_as="first", applied_digest="a" * 64)
    first = Tag(name="first:latest", digest="a" * 64)
    second = Tuning(name="second", source="llama3", parameters={})
    with pytest.raises(ProfileError, match="already, as «first»"):
        must_be_free(second, mine, (first,))
    must_be_free(second, mine, (msgspec.structs.replace(first, digest="b" * 64),))


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (LoadReport(num_ctx=4096, offloaded_layers=33, ubatch=256), ()),
        (LoadReport(), ()),
        (LoadReport(num_ctx=2048), ("context 2048 instead of 4096",)),
        (LoadReport(offloaded_layers=30), ("GPU layers 30 instead of 33",)),
        (LoadReport(offloaded_layers=19, total_layers=19), ()),
        (LoadReport(ubatch=512), ("micro-batch 512 instead of 256",)),
    ],
)
def test_a_load_without_options_is_compared_with_the_profile(
    report: LoadReport, words: tuple[str, ...]
) -> None:
    assert not_as_measured(KNOBS, Observation(outcome=Outcome.DONE, report=report)) == words


@pytest.mark.parametrize(("wanted", "found"), [(3500, 3584), (1024, 2048)])
def test_a_context_may_be_rounded_up(wanted: int, found: int) -> None:
    seen = Observation(outcome=Outcome.DONE, report=LoadReport(num_ctx=found))
    assert not_as_measured(KNOBS.with_(num_ctx=wanted), seen) == ()
