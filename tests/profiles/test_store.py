"""Profiles in the journal, and how a person finds one."""

from __future__ import annotations

import msgspec
import pytest

from narthex.errors import JournalError, ProfileError
from narthex.journal.journal import Journal
from narthex.profiles.profile import Profile
from narthex.profiles.store import add_soak, list_profiles, load_profile, save_profile
from narthex.testing.samples import MODEL, profile, soak_report
from narthex.trials.trial import ModelRef

OTHER_FILE = ModelRef(path="/models/demo-7b-q8.gguf", identity="F00D" * 8, name="Demo 7B")


def test_a_profile_comes_back_as_it_was_saved() -> None:
    with Journal.open() as journal:
        assert save_profile(journal, profile()) == profile()
        assert list_profiles(journal) == [profile()]
        assert load_profile(journal, "demo-7b-fastest-8k") == profile()


def test_the_newest_of_a_name_wins() -> None:
    newer = msgspec.structs.replace(profile(), turn_s=4.0)
    with Journal.open() as journal:
        save_profile(journal, profile())
        save_profile(journal, newer)
        assert list_profiles(journal) == [newer]


def test_two_models_of_one_name_do_not_share_a_profile() -> None:
    with Journal.open() as journal:
        save_profile(journal, profile())
        saved = save_profile(journal, profile(model=OTHER_FILE))
        assert saved.name == "demo-7b-fastest-8k-f00df0"
        assert len(list_profiles(journal)) == 2
        assert load_profile(journal, "demo-7b-fastest-8k").model == MODEL
        assert save_profile(journal, saved) == saved  # the second time it keeps that name


def test_two_engines_do_not_share_a_profile() -> None:
    """One model, one goal and one context: the names would be the same."""
    in_ollama = msgspec.structs.replace(profile(), engine_kind="ollama")
    with Journal.open() as journal:
        save_profile(journal, profile())
        saved = save_profile(journal, in_ollama)
        assert saved.name == "demo-7b-fastest-8k-ollama"
        assert load_profile(journal, "demo-7b-fastest-8k").engine_kind == "llama-server"
        assert save_profile(journal, in_ollama) == saved  # as a later study makes it
        assert save_profile(journal, saved) == saved
        assert save_profile(journal, profile()) == profile()
        assert len(list_profiles(journal)) == 2


def test_two_models_and_two_engines_have_four_names() -> None:
    kinds = ("llama-server", "ollama")
    with Journal.open() as journal:
        for model in (MODEL, OTHER_FILE):
            for kind in kinds:
                save_profile(journal, msgspec.structs.replace(profile(model=model), engine_kind=kind))
        assert len(list_profiles(journal)) == 4


@pytest.mark.parametrize(
    "text",
    ["demo-7b-fa", "Demo-7B-Fastest", "Demo 7B", "demo 7b", "demo-7b.gguf", MODEL.path, MODEL.identity],
)
def test_a_profile_is_found_by_the_beginning_of_its_name_or_by_its_model(text: str) -> None:
    with Journal.open() as journal:
        save_profile(journal, profile())
        assert load_profile(journal, text) == profile()


def test_a_model_with_two_profiles_gives_the_newer_one() -> None:
    with Journal.open() as journal:
        save_profile(journal, profile("a-fastest"))
        save_profile(journal, profile("b-longest"))
        assert load_profile(journal, MODEL.path).name == "b-longest"


def test_the_beginning_of_two_names_is_refused_with_both() -> None:
    with Journal.open() as journal:
        save_profile(journal, profile("demo-one"))
        save_profile(journal, profile("demo-two"))
        with pytest.raises(ProfileError, match="beginning of 2 profiles") as caught:
            load_profile(journal, "demo")
    assert "demo-one" in caught.value.hint


def test_a_full_name_is_found_beside_a_longer_one() -> None:
    with Journal.open() as journal:
        for name in ("demo-8k", "demo-8kx4"):
            save_profile(journal, profile(name))
        assert load_profile(journal, "demo-8k").name == "demo-8k"


@pytest.mark.parametrize("text", ["nonsense", ""])
def test_no_such_profile_says_where_to_look(text: str) -> None:
    with Journal.open() as journal:
        save_profile(journal, profile())
        with pytest.raises(ProfileError, match="There is no profile") as caught:
            load_profile(journal, text)
    assert "profile list" in caught.value.hint


def test_one_more_soak_is_journaled_and_its_time_adds_up() -> None:
    with Journal.open() as journal:
        save_profile(journal, profile())
        assert add_soak(journal, profile(), soak_report(300)).soak_s == 450
        assert load_profile(journal, profile().name).soak_s == 450
        assert [row.report.seconds for row in journal.soaks(profile=profile().name)] == [300]


def test_a_profile_of_an_older_narthex_is_read_with_todays_defaults() -> None:
    body = msgspec.to_builtins(profile())
    for name in ("engine_args", "workload", "repeats", "verified", "verified_at"):
        del body[name]
    with Journal.open() as journal:
        journal.append_profile("old", MODEL.identity, msgspec.json.encode({**body, "name": "old"}))
        assert load_profile(journal, "old") == profile("old")


def test_a_profile_of_an_unknown_shape_is_named() -> None:
    with Journal.open() as journal:
        journal.append_profile("odd", "m", b'{"name": 3}')
        with pytest.raises(JournalError, match="«odd» can't be read"):
            list_profiles(journal)


def test_a_profile_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(profile()), type=Profile) == profile()
