"""``narthex unapply``: only what narthex made, and nobody changed since, is taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.engines.ollama.api import Api
from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.profiles.profile import Profile
from narthex.profiles.store import load_profile, save_profile
from narthex.profiles.tuned import Tuning, make
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call
from narthex.testing.residents import listed, load

pytestmark = pytest.mark.engine
Keep = Callable[..., Profile]
Shown = pytest.CaptureFixture[str]
TUNED = "small-narthex:latest"


def unapply(capsys: Shown, *words: str) -> tuple[int, str, str]:
    code = run(command, ["unapply", *words])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def names(fake: FakeOllama) -> set[str]:
    return {model["name"] for model in call(fake.url, "/api/tags")["models"]}


def stored(name: str) -> Profile:
    with Journal.open() as journal:
        return load_profile(journal, name)


@pytest.fixture
def applied(served: FakeOllama, keep: Keep) -> Any:
    """A profile whose tuned model stands, without the time that its proof takes."""
    profile = keep(served)
    tuning = Tuning(name="small-narthex", source="small:latest", parameters={"num_ctx": 256, "num_gpu": 0})
    digest = make(Api(served.url), tuning)
    with Journal.open() as journal:
        yield save_profile(
            journal,
            msgspec.structs.replace(
                profile, applied_as=tuning.name, applied_to=served.url, applied_digest=digest
            ),
        )
    for name in names(served) - {"small:latest", "small-set:latest"}:
        call(served.url, "/api/delete", {"model": name}, method="DELETE")


@pytest.mark.parametrize("name", ["small-quick", "small-q", "small-narthex", "Small-Narthex:latest"])
def test_the_profile_and_the_tuned_model_go_by_either_name(
    name: str, served: FakeOllama, applied: Profile, capsys: Shown
) -> None:
    code, out, err = unapply(capsys, name)
    assert code == 0, err
    assert out == f"«small-narthex» is removed from Ollama at {served.url}.\n"
    assert names(served) == {"small:latest", "small-set:latest"}
    assert stored(applied.name).applied_as is None
    code, _, err = unapply(capsys, applied.name)
    assert code == ExitCode.PROFILE
    assert "has no tuned model in Ollama" in err
    assert f"narthex apply {applied.name}" in err


def test_a_loaded_one_is_unloaded_first(served: FakeOllama, applied: Profile, capsys: Shown) -> None:
    load(served, "small-narthex", 600)
    assert unapply(capsys, applied.name)[0] == 0
    assert listed(served) == {}


def test_what_the_user_changed_since_is_left_alone(
    served: FakeOllama, applied: Profile, capsys: Shown
) -> None:
    Api(served.url).create("small-narthex", "small:latest", {"num_ctx": 300, "temperature": 0.1})
    code, _, err = unapply(capsys, applied.name)
    assert code == ExitCode.PROFILE
    assert "was changed since narthex made it, so it is left alone" in err
    assert "ollama rm small-narthex" in err
    assert TUNED in names(served)


def test_one_that_is_gone_already_is_said(served: FakeOllama, applied: Profile, capsys: Shown) -> None:
    call(served.url, "/api/delete", {"model": "small-narthex"}, method="DELETE")
    code, out, _ = unapply(capsys, applied.name)
    assert code == 0
    assert "«small-narthex» was gone already." in out
    assert stored(applied.name).applied_as is None


def test_another_server_is_not_where_it_was_made(
    served: FakeOllama, applied: Profile, fake_ollama: Callable[..., FakeOllama], capsys: Shown
) -> None:
    other = fake_ollama()
    code, _, err = unapply(capsys, applied.name, "--ollama", other.url)
    assert code == ExitCode.PROFILE
    assert f"It was made at {served.url}" in err
    assert stored(applied.name).applied_as == "small-narthex"
    assert TUNED in names(served)


def test_a_server_that_is_down_changes_nothing(applied: Profile, capsys: Shown) -> None:
    code, _, err = unapply(capsys, applied.name, "--ollama", "http://127.0.0.1:9")
    assert code == ExitCode.NO_ENGINE
    assert "can't be reached" in err
    assert stored(applied.name).applied_as == "small-narthex"


def test_an_unknown_profile_is_one_sentence(capsys: Shown) -> None:
    code, _, err = unapply(capsys, "no such thing")
    assert code == ExitCode.PROFILE
    assert "There is no profile «no such thing»" in err
