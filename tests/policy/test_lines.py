"""Finding the line that sets a key."""

from __future__ import annotations

import pytest

from narthex.policy.lines import line_of

TEXT = """\
# [policy]
top = 1
[policy]   # rules
soak = 150
"quoted" . deep = 2
backoff = [
  "ctx",
]
[models."deepseek-r1:32b"]
num_ctx = 3500
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("top",), 2),
        (("policy",), 3),
        (("policy", "soak"), 4),
        (("policy", "quoted", "deep"), 5),
        (("policy", "backoff"), 6),
        (("models", "deepseek-r1:32b"), 9),
        (("models", "deepseek-r1:32b", "num_ctx"), 10),
    ],
)
def test_a_key_is_found_below_its_table(keys: tuple[str, ...], line: int) -> None:
    assert line_of(TEXT, keys) == line


def test_a_key_inside_a_value_has_the_line_of_the_value() -> None:
    assert line_of("a = {b = 1}", ("a", "b")) == 1


def test_what_is_not_there_has_no_line() -> None:
    assert line_of(TEXT, ("beside",)) is None
