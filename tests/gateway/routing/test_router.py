"""Who answers a name, in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.errors import ModelFileError
from narthex.gateway.ask import Ask, Rank
from narthex.gateway.routing.router import HOLD_S, Route, Router
from narthex.gateway.trouble import Trouble
from narthex.policy import Policy, read_policy

from .shelf import Shelf, ask, offer

BIG = (
    offer("big:latest", 8192, profile="big-8k"),
    offer("big-4k", 4096, profile="big-4k"),
    offer("big-16k", 16384, profile="big-16k"),
    offer("big-32k", 32768, profile="big-32k", proven=False),
)
SMALL = (offer("small:latest", 4096),)
EMBED = (offer("embed:latest", 2048, capabilities=("embedding",)),)
ROLES = """
[roles]
fast = "small"
quality = ["big", "gone:7b", "fast"]
[roles.stable]
model = "big-4k"
keep_alive = "2h"
wait = "5s"
"""


def router(text: str = ROLES, resident: Any = frozenset) -> Router:
    return Router(read_policy(text), Shelf(BIG, SMALL, EMBED), resident=resident)


def keys(route: Route) -> list[str]:
    return [choice.key for choice in route.choices]


def refused(request: Ask, text: str = ROLES) -> Trouble:
    with pytest.raises(Trouble) as caught:
        router(text).route(request)
    return caught.value


# names


@pytest.mark.parametrize("name", ["small", "small:latest", "Small", "library/small", " small "])
def test_a_model_is_found_by_any_of_its_spellings(name: str) -> None:
    assert keys(router().route(ask(name))) == ["ollama:small:latest"]


@pytest.mark.parametrize("name", ["fast", "FAST", "fast:latest"])
def test_a_role_is_asked_for_as_any_model(name: str) -> None:
    route = router().route(ask(name))
    assert route.role == "fast"
    assert keys(route) == ["ollama:small:latest"]
    assert "«fast»" in route.why


def test_a_profile_is_asked_for_by_its_name() -> None:
    route = router().route(ask("big-16k"))
    assert keys(route)[0] == "ollama:big-16k"
    assert route.role == ""


def test_a_role_goes_before_a_model_of_its_name_which_its_tag_still_means() -> None:
    text = '[roles]\nsmall = "big"'
    assert keys(router(text).route(ask("small")))[0] == "ollama:big-8k"
    assert keys(router(text).route(ask("small:latest"))) == ["ollama:small:latest"]


def test_a_role_may_carry_the_name_of_its_own_model() -> None:
    assert keys(router('[roles]\nsmall = "small"').route(ask("small"))) == ["ollama:small:latest"]


def test_fallbacks_follow_in_order_behind_the_smaller_setting_of_the_first() -> None:
    route = router().route(ask("quality"))
    assert keys(route) == ["ollama:big-8k", "ollama:big-4k", "ollama:small:latest"]
    assert "not here: gone:7b" in route.why
    assert not route.instead


def test_without_the_rule_no_smaller_setting_is_tried() -> None:
    route = router("[gateway]\nsmaller = false\n" + ROLES).route(ask("quality"))
    assert keys(route) == ["ollama:big-8k", "ollama:small:latest"]


def test_a_role_whose_model_is_gone_says_what_answers_instead() -> None:
    route = router('[roles]\nmine = ["gone", "small"]').route(ask("mine"))
    assert keys(route) == ["ollama:small:latest"]
    assert route.instead == "gone is not here"


def test_an_unknown_name_gets_the_near_ones() -> None:
    trouble = refused(ask("smal"))
    assert (trouble.status, trouble.cause) == (404, "model_not_found")
    assert trouble.message == "model 'smal' not found."
    assert "small:latest" in trouble.remedy
    assert "ollama pull smal" in trouble.remedy


def test_a_name_that_is_no_text_for_a_terminal_is_shown_without_harm() -> None:
    trouble = refused(ask("x\x1b[31m\n" + "y" * 5000))
    assert "\x1b" not in trouble.text
    assert len(trouble.text) < 500


def test_a_role_of_which_nothing_is_here_names_the_role() -> None:
    trouble = refused(ask("mine"), '[roles]\nmine = "gone:7b"')
    assert trouble.message == "model 'gone:7b' not found."
    assert "The role «mine»" in trouble.remedy


def test_while_ollama_can_not_be_listed_that_is_the_reason() -> None:
    shelf = Shelf(SMALL)
    shelf.problem = Trouble(503, "ollama_unreachable", "Ollama can't be reached.")
    found = Router(read_policy(ROLES), shelf)
    assert keys(found.route(ask("small"))) == ["ollama:small:latest"]
    with pytest.raises(Trouble) as caught:
        found.route(ask("big"))
    assert caught.value.status == 503


def test_a_changed_catalogue_is_seen_at_once() -> None:
    shelf = Shelf(SMALL)
    found = Router(read_policy(ROLES), shelf)
    assert keys(found.route(ask("small"))) == ["ollama:small:latest"]
    shelf.groups, shelf.generation = ((offer("small:latest", 9, profile="new"),),), 2
    assert keys(found.route(ask("small"))) == ["ollama:new"]


def test_each_role_tells_what_it_would_take() -> None:
    found = Router(read_policy('[roles]\na = "small"\nb = "gone"\nc = ["gone", "big"]'), Shelf(BIG, SMALL))
    taken = {name: each and each.key for name, each in found.roles().items()}
    assert taken == {"a": "ollama:small:latest", "b": None, "c": "ollama:big-8k"}


# contexts


def test_a_smaller_context_runs_on_the_setting_as_it_is() -> None:
    assert keys(router().route(ask("big", options={"num_ctx": 100})))[0] == "ollama:big-8k"


def test_more_context_takes_the_smallest_proven_setting_that_has_it() -> None:
    route = router().route(ask("big", options={"num_ctx": 10_000}))
    assert keys(route) == ["ollama:big-16k"]
    assert route.instead == "a context of 10,000 is asked for, and big:latest has 8,192"


def test_the_settings_that_a_role_names_go_first_proven_or_not() -> None:
    text = '[roles.deep]\nmodel = "big"\nlarger = ["big-32k"]'
    assert keys(router(text).route(ask("deep", options={"num_ctx": 10_000})))[0] == "ollama:big-32k"


def test_more_context_than_any_setting_has_is_refused_with_both_numbers() -> None:
    trouble = refused(ask("small", options={"num_ctx": 40_000}))
    assert (trouble.status, trouble.cause) == (400, "context_too_large")
    assert "40,000" in trouble.message
    assert "4,096" in trouble.message
    assert trouble.figures == {"asked_tokens": 40_000, "largest_tokens": 4096}


def test_what_leaks_into_v1_is_asked_for_as_well() -> None:
    request = ask("small", "/v1/chat/completions", num_ctx=40_000)
    assert refused(request).cause == "context_too_large"


def test_a_fallback_without_the_room_is_left_out() -> None:
    route = router().route(ask("quality", options={"num_ctx": 16_000}))
    assert keys(route) == ["ollama:big-16k"]


def test_a_context_that_is_not_known_is_the_engines_to_judge() -> None:
    shelf = Shelf((offer("odd", None),))
    route = Router(read_policy(""), shelf).route(ask("odd", options={"num_ctx": 10**6}))
    assert keys(route) == ["ollama:odd"]


def test_a_long_prompt_takes_a_larger_setting_and_is_never_refused_for_its_length() -> None:
    long = [{"role": "user", "content": "word " * 10_000}]
    assert keys(router().route(ask("big", messages=long)))[0] == "ollama:big-16k"
    assert keys(router().route(ask("small", messages=long))) == ["ollama:small:latest"]


def test_the_answer_counts_with_the_prompt() -> None:
    native = ask("big", options={"num_predict": 9000})
    openai = ask("big", "/v1/chat/completions", max_tokens=9000)
    assert keys(router().route(native))[0] == keys(router().route(openai))[0] == "ollama:big-16k"


def test_many_texts_to_embed_are_not_one_long_prompt() -> None:
    request = ask("embed", "/api/embed", input=["text " * 100] * 1000)
    assert keys(router().route(request)) == ["ollama:embed:latest"]


def test_a_smaller_setting_is_no_help_for_a_prompt_that_it_can_not_hold() -> None:
    request = ask("big", messages=[{"role": "user", "content": "word " * 5000}])
    assert keys(router().route(request)) == ["ollama:big-8k"]


def test_once_the_engine_counted_the_prompt_a_larger_setting_is_found() -> None:
    found = router()
    request = ask("quality")
    larger = found.larger(request, found.route(request), 9000)
    assert larger is not None
    assert keys(larger) == ["ollama:big-16k"]
    assert larger.instead == "the prompt takes 9,000 tokens, and big:latest has 8,192"
    assert found.larger(request, found.route(request), 50_000) is None


# how long, and who waits


def test_keep_alive_and_wait_are_the_roles_else_the_gateways() -> None:
    stable, fast = router().route(ask("stable")), router().route(ask("fast"))
    assert (stable.keep_alive_s, stable.wait_s) == (7200.0, 5.0)
    assert (fast.keep_alive_s, fast.wait_s) == (1800.0, 600.0)


@pytest.mark.parametrize("value", [-1, -0.5, "-1m", "-1s"])
def test_a_pin_is_refused_unless_it_is_allowed(value: Any) -> None:
    trouble = refused(ask("small", keep_alive=value))
    assert (trouble.status, trouble.cause) == (400, "pin_refused")
    allowed = router("[gateway]\npins = true").route(ask("small", keep_alive=value))
    assert allowed.keep_alive_s == -1.0


@pytest.mark.parametrize("value", [0, 5, "10m", "nonsense", True, None])
def test_any_other_keep_alive_changes_nothing(value: Any) -> None:
    assert router().route(ask("small", keep_alive=value)).keep_alive_s == 1800.0


def test_background_calls_wait_for_people_by_default() -> None:
    title = ask("big", task="title_generation")
    assert router().route(title).hold_s == HOLD_S
    assert router().route(ask("big")).hold_s == 0.0


def test_background_calls_can_go_to_whatever_answers_and_is_loaded() -> None:
    text = '[gateway]\nbackground = "resident"'
    found = router(text, lambda: {"ollama:embed:latest", "ollama:small:latest"})
    route = found.route(ask("big", task="title_generation"))
    assert keys(route)[:2] == ["ollama:small:latest", "ollama:big-8k"]
    assert "small:latest is loaded" in route.instead
    assert keys(found.route(ask("big")))[0] == "ollama:big-8k"
    nothing = router(text, lambda: {"ollama:embed:latest"})
    assert keys(nothing.route(ask("big", task="title_generation")))[0] == "ollama:big-8k"


def test_background_calls_can_be_treated_like_any() -> None:
    title = ask("big", task="title_generation")
    route = router('[gateway]\nbackground = "as-asked"').route(title)
    assert route.hold_s == 0.0
    assert title.rank is Rank.INTERACTIVE


def test_a_changed_policy_counts_from_the_next_request_on() -> None:
    found = router()
    assert found.route(ask("fast")).role == "fast"
    found.change(read_policy('[roles]\nfast = "big"'))
    assert keys(found.route(ask("fast")))[0] == "ollama:big-8k"


def test_a_file_that_is_no_whole_model_is_told_as_that_and_not_as_missing() -> None:
    shelf = Shelf()
    shelf.faults["cut"] = ModelFileError("cut.gguf is cut off.", hint="Fetch it again.")
    with pytest.raises(Trouble) as found:
        Router(Policy(), shelf).route(ask("cut"))
    assert (found.value.status, found.value.cause) == (503, "gguf_invalid_or_corrupt")
