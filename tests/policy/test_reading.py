"""narthex.toml: what is right is read, what is wrong is named with its line and a way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narthex.errors import UsageError
from narthex.policy import find_config, load_policy, read_policy

WHOLE = """
[defaults]
num_ctx = 4096
num_gpu = 19
num_batch = 256

[policy]
backoff = ["gpu", "num_ctx"]
grow = "off"
reserve = "512 MiB"
soak = "30m"
allow_kv = ["q8_0"]
repeats = 5

[ollama]
host = "10.0.0.7:11434"
log = "docker:ollama"

[roles]
fast = "mistral-nemo"

[models."deepseek-r1:32b"]
role = "stable"
num_ctx = 3500
num_gpu = 0
num_thread = 6
backoff = "batch, ctx"
note = "Slow and sure."

[models.mixtral]
remove = true

[beside.comfyui]

[beside.blender]
process = "blender"
job = ["blender", "-b", "scene.blend"]
"""


def fault_of(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_policy(text)
    return caught.value


def test_a_whole_file_is_read() -> None:
    policy = read_policy(WHOLE)
    assert policy.policy.soak == 1800.0
    assert policy.policy.reserve == 512 * 2**20
    assert policy.policy.backoff == ("gpu_layers", "num_ctx")
    assert policy.policy.grow == ""
    stable = policy.for_model("deepseek-r1:32b")
    assert (stable.num_ctx, stable.num_gpu, stable.num_thread) == (3500, 0, 6)
    assert stable.backoff == ("batch", "num_ctx")
    assert policy.for_model("mixtral:latest").removal == "marked in narthex.toml"
    blender = policy.tenant("blender")
    assert blender is not None
    assert blender.job == ("blender", "-b", "scene.blend")
    assert policy.tenant("gimp") is None


def test_an_empty_file_says_nothing() -> None:
    policy = read_policy("")
    assert policy.value("policy.soak") is None
    assert policy.for_model("llama3").num_ctx is None
    assert policy.roles == {}
    assert policy.role("fast") is None
    assert policy.gateway.starvation == 60.0


@pytest.mark.parametrize(
    "spelling", ["deepseek-r1:32b", "DeepSeek-R1:32B", "library/deepseek-r1:32b", " deepseek-r1:32b "]
)
def test_a_model_is_found_by_any_spelling_that_ollama_takes(spelling: str) -> None:
    assert read_policy(WHOLE).for_model(spelling).num_ctx == 3500


def test_another_tag_is_another_model() -> None:
    assert read_policy(WHOLE).for_model("deepseek-r1").num_ctx is None


def test_a_role_counts_wherever_it_is_written() -> None:
    policy = read_policy(WHOLE)
    assert policy.for_model("mistral-nemo:latest").role == "fast"
    assert policy.for_model("deepseek-r1:32b").role == "stable"


@pytest.mark.parametrize(
    ("text", "line", "words", "way_out"),
    [
        ("[polic]\nsoak = 1", 1, "no «polic» at the top", "Did you mean «policy»?"),
        ("\n[policy]\nsoka = 1", 3, "no «soka» in [policy]", "Did you mean «soak»?"),
        ("[policy]\n# soak = 5\nsoak = true", 3, "policy.soak can't be «true»", '"150s"'),
        ("[policy]\nsoak = -1", 2, "policy.soak can't be «-1»", "duration"),
        ('[policy]\nreserve = "much"', 2, "policy.reserve: «much» is not a size", "MiB"),
        ('[policy]\nbackoff = ["ctx", "speed"]', 2, "«speed» can't give way", "ctx, gpu, batch"),
        ('[policy]\nbackoff = ["ctx", "num_ctx"]', 2, "stands twice", "once"),
        ('[policy]\ngrow = "batch"', 2, "«batch» can't grow", "ctx or off"),
        ('[policy]\nallow_kv = ["f64"]', 2, "«f64»", "q8_0"),
        ("[policy]\nrepeats = 0", 2, "policy.repeats can't be «0»", "whole number of 1 or more"),
        ("[policy]\nrepeats = 1.5", 2, "can't be «1.5»", "whole number"),
        ("policy = 3", 1, "policy must be a table", "[policy]"),
        ('[ollama]\nlog = "/var/log/x"', 2, "no place of a log", "file:PATH"),
        ('[ollama]\nhost = " "', 2, "The text is empty", "leave the line out"),
        ('[models."a:b"]\n\nnum_ctx = "big"', 3, 'models."a:b".num_ctx can\'t be «big»', "whole number"),
        ('[models."a:b"]\nrole = "a:b"', 2, "«a:b» can't be the name of a role", "Begin with a letter"),
        ("[roles]\n\n'my:role' = 'a'", 3, "with «:» or «/» it would be the name of a model", "letter"),
        ("[roles]\n'1st' = 'a'", 2, "clients ask for it as for a model", "Begin with a letter"),
        ("[roles]\nfast = 3", 2, "roles.fast can't be «3»", "a list, the first choice first"),
        ("[roles]\nfast = []", 2, "roles.fast can't be «[]»", "the name of a model"),
        ("[roles]\nfast = ['a', ' ']", 2, "roles.fast: The text is empty", "leave"),
        ("[roles]\nfast = 'a'\nFast = 'b'", 3, "«Fast» and «fast» are one role", "into one"),
        ("[roles.fast]\nkeep_alive = 5", 1, "the role «fast» has no model", "model ="),
        ("[roles.fast]\nmodel = 'a'\nlager = ['b']", 3, "no «lager» in [roles.fast]", "«larger»"),
        ("[roles.fast]\nmodel = 'a'\nkeep_alive = -2", 3, "can't be «-2»", "-1 for ever"),
        ("roles = 7", 1, "roles must be a table", "[roles]"),
        ("[gateway]\nqueue = 0", 2, "gateway.queue can't be «0»", "whole number of 1 or more"),
        ("[gateway]\nbackground = 'never'", 2, "can't be «never»", '"resident"'),
        ("[gateway]\nstarvaton = '5s'", 2, "no «starvaton» in [gateway]", "«starvation»"),
        ("[models.llama3.2]\nnum_ctx = 2048", 1, "no «2» in [models.llama3]", "in quotes"),
        ("[models]\nllama3 = 7", 2, "models.llama3 must be a table", "[models.llama3]"),
        ("models = 7", 1, "models must hold tables", "[models."),
        ("[models.a]\nnum_ctx = 1\n[models.'A:latest']", 3, "are one model", "into one"),
        ("[beside.blender]\nprocess = 'blender'", 1, "does not know how to give «blender» work", "job ="),
        ("[beside.x]\njob = []", 2, "beside.x.job can't be «[]»", "a list of words"),
        ("[beside.x]\njob = ['a']\nurl = 'b'", 1, "a job of its own and a ComfyUI's keys", "Leave"),
        ("models = {a = {num_ctx = 0}}", 1, "models.a.num_ctx can't be «0»", "whole number"),
    ],
)
def test_a_fault_is_named_with_its_line_and_a_way_out(text: str, line: int, words: str, way_out: str) -> None:
    fault = fault_of(text)
    assert fault.message.startswith(f"narthex.toml, line {line}: ")
    assert words in fault.message
    assert way_out in fault.hint


def test_one_role_for_two_models_is_refused() -> None:
    fault = fault_of("[roles]\nfast = 'a'\n[models.b]\nrole = 'fast'")
    assert fault.message == "narthex.toml, line 4: the role «fast» is given to «a» and to «b»."


def test_a_role_said_twice_for_one_model_is_no_contradiction() -> None:
    policy = read_policy("[roles]\nfast = 'a'\n[models.'a:latest']\nrole = 'fast'")
    assert policy.for_model("a").role == "fast"


def test_a_role_is_a_model_a_list_of_choices_or_a_table() -> None:
    policy = read_policy(
        "[roles]\nfast = 'a'\nquality = ['b', 'a']\n"
        "[roles.mine]\nmodel = 'c'\nlarger = ['c-16k']\nfallbacks = ['fast']\nkeep_alive = -1\nwait = '5s'"
    )
    assert [(role.name, role.model, role.fallbacks) for role in policy.roles.values()] == [
        ("fast", "a", ()),
        ("quality", "b", ("a",)),
        ("mine", "c", ("fast",)),
    ]
    mine = policy.role("MINE")
    assert mine is not None
    assert (mine.larger, mine.keep_alive, mine.wait) == (("c-16k",), -1.0, 5.0)
    assert policy.for_model("c:latest").role == "mine"


def test_a_role_in_a_models_own_table_is_a_role_like_any() -> None:
    role = read_policy("[models.'a:7b']\nrole = 'editor'").role("editor")
    assert role is not None
    assert role.model == "a:7b"


def test_the_gateways_table_is_read() -> None:
    policy = read_policy("[gateway]\nstarvation = '30s'\nvram = '20 GiB'\nhosts = ['box.lan']\npins = true")
    assert policy.gateway.starvation == 30.0
    assert policy.gateway.vram == 20 * 2**30
    assert policy.gateway.hosts == ("box.lan",)
    assert policy.gateway.pins


def test_what_is_nested_without_end_is_refused() -> None:
    assert "nested too deep" in fault_of("a = " + 5000 * "[" + 5000 * "]").message


@pytest.mark.parametrize("text", ["[policy\n", 'a = "', "a = 1\na = 2", "[models.a:b]\n"])
def test_what_is_no_toml_says_so(text: str) -> None:
    fault = fault_of(text)
    assert "this is no valid TOML" in fault.message
    assert "quotes" in fault.hint


def test_a_name_with_a_colon_that_lacks_quotes_gets_the_place() -> None:
    assert fault_of("\n[models.a:b]\n").message.startswith("narthex.toml, line 2, column ")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The three places of the file; nothing is there yet."""
    here, user = tmp_path / "here", tmp_path / "config" / "narthex"
    here.mkdir()
    user.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return {
        "chosen": tmp_path / "mine.toml",
        "here": here / "narthex.toml",
        "user": user / "narthex.toml",
    }


def test_the_first_of_three_places_counts(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config() is None
    assert load_policy().path is None
    for repeats, name in enumerate(("user", "here", "chosen"), start=1):
        places[name].write_text(f"[policy]\nrepeats = {repeats}\n")
        if name == "chosen":
            monkeypatch.setenv("NARTHEX_CONFIG", str(places[name]))
        policy = load_policy()
        assert policy.policy.repeats == repeats
        assert policy.path == str(places[name])


def test_a_chosen_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NARTHEX_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(UsageError, match="There is no file") as caught:
        load_policy()
    assert "narthex init" in caught.value.hint


def test_a_changed_file_is_read_again(places: dict[str, Path]) -> None:
    places["here"].write_text("[policy]\nrepeats = 2\n")
    assert load_policy().policy.repeats == 2
    places["here"].write_text("[policy]\nrepeats = 44\n")
    assert load_policy().policy.repeats == 44


def test_a_file_that_is_no_text_says_so(places: dict[str, Path]) -> None:
    places["here"].write_bytes(b"[policy]\nnote = '\xff\xfe'\n")
    with pytest.raises(UsageError, match="no UTF-8 text"):
        load_policy()


def test_a_mark_before_the_text_is_no_fault(places: dict[str, Path]) -> None:
    places["here"].write_bytes(b"\xef\xbb\xbf[policy]\nrepeats = 2\n")
    assert load_policy().policy.repeats == 2


def test_a_folder_of_that_name_is_passed_over_and_one_that_was_chosen_is_named(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    places["here"].mkdir()
    assert find_config() is None
    monkeypatch.setenv("NARTHEX_CONFIG", str(places["here"]))
    with pytest.raises(UsageError, match="can't be read: Is a directory"):
        load_policy()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(places: dict[str, Path]) -> None:
    places["here"].write_text("")
    places["here"].chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        load_policy()
