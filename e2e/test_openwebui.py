"""What a person sees in a real OpenWebUI whose Ollama is the gateway."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

from openwebui import ask, wait_for

from conftest import BROKEN, MODEL
from narthex.testing.fake_ollama import FakeOllama

ANSWER_S = 90.0


def say(page: Any, url: str, model: str, words: str) -> None:
    """Open a new chat with a model and send a message."""
    page.goto(f"{url}/?model={model}")
    page.wait_for_selector("#chat-input")
    page.wait_for_timeout(1500)
    page.keyboard.press("Escape")  # the notes of the release
    page.click("#chat-input")
    page.keyboard.type(words)
    page.keyboard.press("Enter")


def answer(page: Any) -> str:
    """The text of the newest answer; "" while there is none."""
    found = page.query_selector_all("#response-content-container")
    return str(found[-1].inner_text()).strip() if found else ""


def counted(url: str, name: str, **labels: str) -> float:
    """The sum of a metric's rows with these labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    rows = (re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line) for line in lines)
    return sum(
        float(row[2])
        for row in rows
        if row and all(f'{key}="{value}"' in (row[1] or "") for key, value in labels.items())
    )


def idle(url: str) -> bool:
    """Nothing runs or waits in the gateway."""
    state = ask(f"{url}/narthex/state")
    return not state["waiting"] and not any(row["running"] for row in state["holdings"])


def test_a_chat_works_and_its_background_calls_cause_no_reload(
    page: Any, page_url: str, gateway: str
) -> None:
    say(page, page_url, MODEL, "Say hello to the lighthouse keeper in one short sentence.")
    wait_for(lambda: answer(page), ANSWER_S, "an answer")
    wait_for(
        lambda: counted(gateway, "narthex_requests_total", status="200") >= 4 and idle(gateway),
        ANSWER_S,
        "title, follow-ups and tags",
    )
    assert counted(gateway, "narthex_loads_total") == 1


def test_a_role_is_a_model_among_the_others(page: Any, page_url: str, gateway: str) -> None:
    say(page, page_url, "fast", "Say hello in one short sentence.")
    wait_for(lambda: answer(page), ANSWER_S, "an answer")
    wait_for(lambda: idle(gateway), ANSWER_S, "the end of the background calls")
    assert counted(gateway, "narthex_loads_total") == 1


def test_a_load_that_fails_says_why_in_the_chat(page: Any, page_url: str) -> None:
    say(page, page_url, BROKEN, "Hello?")
    begun = time.monotonic()
    page.wait_for_selector("text=gguf_invalid_or_corrupt", timeout=20_000)
    print(f"the cause stood in the page {time.monotonic() - begun:.2f} s after the message")


def test_a_runner_that_dies_within_an_answer_leaves_a_word_in_the_chat(
    page: Any, page_url: str, gateway: str, engine: FakeOllama
) -> None:
    say(
        page, page_url, MODEL, "Count from one to five hundred, each number on its own line, and do not stop."
    )
    wait_for(lambda: len(answer(page)) > 20, ANSWER_S, "the first words")
    assert engine.kill_runner() > 0
    page.wait_for_selector("text=/narthex: (runner_died|runner_crash_bug|connection_lost)/", timeout=20_000)
    wait_for(lambda: idle(gateway), ANSWER_S, "the end of the background calls")


def test_stop_ends_the_answer_at_the_engine(page: Any, page_url: str, gateway: str) -> None:
    say(
        page, page_url, MODEL, "Count from one to nine hundred, each number on its own line, and do not stop."
    )
    wait_for(lambda: len(answer(page)) > 20, ANSWER_S, "the first words")
    page.click("button[aria-label='Stop'], #stop-response-button, button:has-text('Stop')")
    wait_for(
        lambda: counted(gateway, "narthex_requests_total", status="499") >= 1, 10, "the client's leaving"
    )
    wait_for(lambda: idle(gateway), ANSWER_S, "an idle engine")
