"""What can be asked for, from a real list of models, the journal and files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.cli.target import find_target
from narthex.engines.ollama.api import Api
from narthex.gateway.hands.ollama_residents import FOREIGN
from narthex.gateway.offer import Offer
from narthex.gateway.routing.catalogue import Catalogue
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.models.gguf import inspect_file
from narthex.policy import read_policy
from narthex.profiles.profile import Profile
from narthex.profiles.store import save_profile
from narthex.profiles.tuned import Tuning, make, parameters_for
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.ollama.canned import canned
from narthex.testing.samples import profile as sample
from narthex.testing.shapes import write_shape
from narthex.trials.trial import model_ref

KNOBS = KnobValues(num_ctx=2048, gpu_layers=3, batch=256, ubatch=256)


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A header-only model."""
    return write_shape("lfm2", tmp_path_factory.mktemp("file") / "tiny.gguf")


@pytest.fixture(scope="module")
def ollama(
    engine_binary: Path, shape: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeOllama]:
    """Two names over one file, one with PARAMETERs."""
    with FakeOllama(tmp_path_factory.mktemp("ollama") / "models", engine=engine_binary) as fake:
        fake.add_model("one", shape)
        fake.add_model("two:set", shape, {"num_ctx": 1024, "num_thread": 1})
        yield fake


def looked(catalogue: Catalogue) -> Catalogue:
    asyncio.run(catalogue.refresh())
    return catalogue


def catalogue(url: str | None = None, policy: str = "") -> Catalogue:
    return looked(Catalogue(read_policy(policy), ollama=url, with_ollama=url is not None))


def found(of: Catalogue, name: str) -> Offer:
    offer = of.named(name)
    assert offer is not None
    return offer


def keep(fake: FakeOllama, model: str = "one", **changes: Any) -> Profile:
    """A proven profile, as a study on that server would have kept it."""
    target = find_target(model, ollama=fake.url)
    made = sample(knobs=KNOBS)
    made = msgspec.structs.replace(
        made, name=f"{model}-2k", model=target.model, engine_kind="ollama", **changes
    )
    with Journal.open() as journal:
        return save_profile(journal, made)


def test_models_without_a_profile_run_as_ollama_has_them(ollama: FakeOllama) -> None:
    of = catalogue(ollama.url)
    one, two = found(of, "ONE:latest"), found(of, "two:set")
    assert of.problem is None
    assert one.options == two.options == {}
    assert (one.name, one.model, one.backend) == ("one:latest", "one:latest", "ollama")
    assert two.num_ctx == 1024
    assert one.twin == two.twin
    assert one.key != two.key
    assert not one.key.startswith(FOREIGN)  # which is what an Ollama holds for others
    assert one.elastic
    assert one.need_source == "planned"
    assert one.need_bytes
    assert one.refuses_long
    assert found(of, "library/one") == one
    assert of.named("one:7b") is None
    names = [msgspec.json.decode(raw)["name"] for raw in of.tags()]
    assert sorted(names) == ["one:latest", "two:set"]


def test_a_models_own_table_gives_the_options_of_its_loads(ollama: FakeOllama) -> None:
    of = catalogue(ollama.url, "[models.one]\nnum_ctx = 512\nnum_gpu = 999\nnote = 'x'")
    one = found(of, "one")
    assert one.options == {"num_ctx": 512, "num_gpu": 999}
    assert one.num_ctx == 512
    assert one.knobs is not None
    assert one.knobs.gpu_layers is not None
    assert one.knobs.gpu_layers < 999
    assert not one.elastic


def test_house_defaults_alone_change_no_load(ollama: FakeOllama) -> None:
    assert found(catalogue(ollama.url, "[defaults]\nnum_ctx = 512"), "one").options == {}


def test_the_newest_proven_profile_is_what_a_models_name_means(ollama: FakeOllama) -> None:
    kept = keep(ollama)
    of = catalogue(ollama.url, "[models.one]\nnum_ctx = 512")
    one = found(of, "one")
    assert one.profile == kept.name
    assert one.proven
    assert one.options == {"num_ctx": 2048, "num_gpu": 3, "num_batch": 256}
    assert found(of, kept.name) == one
    assert found(of, "two:set").profile is None


def test_further_profiles_are_settings_of_the_same_model(ollama: FakeOllama) -> None:
    proven = keep(ollama)
    larger = KNOBS.with_(num_ctx=4096)
    with Journal.open() as journal:
        save_profile(journal, msgspec.structs.replace(proven, name="one-4k", knobs=larger, proven=False))
    of = catalogue(ollama.url)
    one, other = found(of, "one"), found(of, "one-4k")
    assert one.profile == proven.name
    assert (other.name, other.model, other.num_ctx, other.proven) == ("one-4k", "one:latest", 4096, False)
    assert other.key != one.key
    assert other.twin == one.twin
    assert of.siblings(one) == (other,)
    assert of.siblings(other) == (one,)


def test_a_profile_that_the_server_can_not_load_is_passed_over(ollama: FakeOllama) -> None:
    keep(ollama)
    with Journal.open() as journal:
        (row,) = [msgspec.json.decode(each.body, type=Profile) for each in journal.profile_bodies()]
        save_profile(journal, msgspec.structs.replace(row, knobs=KNOBS.with_(kv_type="q4_0")))
    of = catalogue(ollama.url)
    assert found(of, "one").profile is None
    assert of.named("one-2k") is None


def test_a_profile_of_another_file_does_not_count(ollama: FakeOllama) -> None:
    kept = keep(ollama)
    other = msgspec.structs.replace(kept.model, identity="another", path="/gone")
    with Journal.open() as journal:
        journal.append_profile(
            kept.name, "another", msgspec.json.encode(msgspec.structs.replace(kept, model=other))
        )
    assert found(catalogue(ollama.url), "one").profile is None


def test_options_of_the_model_itself_are_overruled_by_a_profile(ollama: FakeOllama) -> None:
    keep(ollama, "two:set", applied_as=None)
    two = found(catalogue(ollama.url), "two:set")
    assert two.options["num_thread"] == 0  # the profile leaves the threads to Ollama


def test_a_tuned_model_carries_the_options_itself_and_is_the_way_to_its_profile(ollama: FakeOllama) -> None:
    kept = keep(ollama)
    api = Api(ollama.url)
    parameters = parameters_for(kept.knobs, api.version(), {})
    digest = make(api, Tuning(name="one-narthex", source="one", parameters=parameters))
    applied = msgspec.structs.replace(
        kept, applied_as="one-narthex:latest", applied_to=ollama.url, applied_digest=digest
    )
    try:
        with Journal.open() as journal:
            save_profile(journal, applied)
        of = catalogue(ollama.url)
        one = found(of, "one")
        assert (one.name, one.model, one.options) == ("one:latest", "one-narthex:latest", {})
        assert one.profile == kept.name
        assert found(of, "one-narthex") == one
        assert len([offer for offer in of.offers() if offer.model.startswith("one")]) == 1
    finally:
        api.delete("one-narthex")


def test_a_look_at_what_did_not_change_changes_nothing(ollama: FakeOllama) -> None:
    of = catalogue(ollama.url)
    before, generation = of.offers(), of.generation
    looked(of)
    assert of.generation == generation
    assert all(a is b for a, b in zip(of.offers(), before, strict=True))
    keep(ollama)
    looked(of)
    assert of.generation > generation
    assert found(of, "one").profile == "one-2k"


def test_another_policy_counts_from_the_next_look_on(ollama: FakeOllama) -> None:
    of = catalogue(ollama.url)
    of.change(read_policy("[models.one]\nnum_ctx = 256"))
    assert found(looked(of), "one").options == {"num_ctx": 256}


def test_while_ollama_is_down_the_list_stays_and_the_reason_is_known() -> None:
    with canned() as answers:
        answers.tags = [{"name": "far:latest", "model": "far:latest", "digest": "a" * 64, "size": 5}]
        of = catalogue(answers.url)
        assert of.problem is None
        assert found(of, "far").need_bytes is None
    looked(of)
    assert of.problem is not None
    assert (of.problem.status, of.problem.cause) == (503, "ollama_unreachable")
    assert answers.url in of.problem.message
    assert found(of, "far").name == "far:latest"


def test_an_ollama_that_never_answered_is_a_problem_where_it_was_named() -> None:
    of = catalogue("http://127.0.0.1:9")
    assert of.problem is not None
    assert of.problem.remedy


def test_stubs_of_cloud_models_are_not_offered() -> None:
    with canned() as answers:
        answers.tags = [
            {"name": "big:671b-cloud", "digest": "b" * 64, "remote_host": "https://ollama.com"},
            {"name": "far:latest", "digest": "a" * 64},
        ]
        of = catalogue(answers.url)
    assert [offer.name for offer in of.offers()] == ["far:latest"]
    assert len(of.tags()) == 1


# files for llama-server


def test_a_file_that_the_policy_names_is_offered(shape: Path) -> None:
    of = catalogue(policy=f"[roles]\nfast = '{shape}'")
    offer = found(of, str(shape))
    assert (offer.backend, offer.name, offer.model) == ("llama-server", "tiny", str(shape))
    assert found(of, "tiny") == found(of, "tiny.gguf") == offer
    assert offer.num_ctx
    assert offer.slots == 1
    assert offer.need_bytes
    assert offer.twin == ""


def test_no_name_leads_to_a_file_that_is_not_listed(shape: Path, tmp_path: Path) -> None:
    other = write_shape("lfm2", tmp_path / "other.gguf")
    of = catalogue(policy=f"[roles]\nfast = '{shape}'\nodd = 'missing.gguf'")
    assert of.named(str(other)) is None
    assert of.named("/etc/passwd") is None
    assert len(of.offers()) == 1


def test_a_files_own_table_gives_its_setting(shape: Path) -> None:
    offer = found(catalogue(policy=f"[models.'{shape}']\nnum_ctx = 333\nnum_gpu = 2"), "tiny")
    assert offer.knobs is not None
    assert (offer.num_ctx, offer.knobs.gpu_layers) == (333, 2)


def test_profiles_of_files_are_offered_while_the_file_is_there(shape: Path, tmp_path: Path) -> None:
    file = write_shape("lfm2", tmp_path / "own.gguf")
    model = model_ref(inspect_file(file))
    with Journal.open() as journal:
        save_profile(journal, sample("own-2k", model=model, knobs=KNOBS))
        save_profile(journal, sample("own-4k", model=model, knobs=KNOBS.with_(num_ctx=4096), soak_s=0))
    of = catalogue()
    small, large = found(of, "own-2k"), found(of, "own-4k")
    assert (small.knobs, small.proven, large.proven) == (KNOBS, True, False)
    assert found(of, "own") == small
    assert of.siblings(small) == (large,)
    file.unlink()
    looked(of)
    assert of.named("own-2k") is None


def test_the_built_in_model_is_there_where_nothing_else_is(gemma: Path) -> None:
    offer = found(catalogue(), "demo")
    assert offer.backend == "llama-server"
    assert offer.need_source == "planned"


def test_a_damaged_file_is_left_out(tmp_path: Path, shape: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    of = catalogue(policy=f"[roles]\na = '{bad}'\nb = '{shape}'")
    assert [offer.name for offer in of.offers()] == ["tiny"]
