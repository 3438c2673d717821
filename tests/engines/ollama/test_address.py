"""``OLLAMA_HOST`` means to narthex what it means to Ollama's own client."""

from __future__ import annotations

import pytest

from narthex.engines.ollama.address import Address, parse_given, parse_host
from narthex.errors import UsageError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:1234", "http://box:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("http://box:11434/", "http://box:11434"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("http://0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("[::]:5000", "http://[::1]:5000"),
        ("::1", "http://[::1]:11434"),
        ("[fe80::1]:99", "http://[fe80::1]:99"),
        (' "box:1234" ', "http://box:1234"),
        ("box:99999", "http://box:11434"),
        ("http://box:many", "http://box:80"),
    ],
)
def test_an_address_is_read_by_ollamas_own_rules(text: str, url: str) -> None:
    assert parse_host(text).url == url


@pytest.mark.parametrize("text", ["", "  ", "ftp://box", "my box", "http://me:secret@box:11434"])
def test_what_can_be_no_address_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_given(text)
    assert "secret" not in caught.value.message + caught.value.hint


def test_this_machine_knows_its_own_addresses() -> None:
    assert Address(host="localhost").here() in ("127.0.0.1", "::1")
    assert Address(host="127.0.0.1").here() == "127.0.0.1"
    assert Address(host="192.0.2.7").here() is None  # of a range that is nobody's
    assert Address(host="no.such.host.invalid").here() is None
