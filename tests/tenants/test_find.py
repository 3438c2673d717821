"""From a name to a tenant."""

from __future__ import annotations

import pytest

from narthex.errors import UsageError
from narthex.policy import read_policy
from narthex.tenants.comfyui import ComfyTenant
from narthex.tenants.command import CommandTenant
from narthex.tenants.find import find_tenant

POLICY = """
[beside.render]
url = "http://127.0.0.1:9188"
[beside.blender]
job = ["blender", "-b"]
"""


def test_comfyui_is_known_without_a_line() -> None:
    assert isinstance(find_tenant("comfyui", read_policy("")), ComfyTenant)


def test_any_other_is_what_the_policy_says() -> None:
    assert isinstance(find_tenant("blender", read_policy(POLICY)), CommandTenant)
    assert isinstance(find_tenant("render", read_policy(POLICY)), ComfyTenant)


def test_an_unknown_name_lists_the_known_ones_and_the_way_to_add_one() -> None:
    with pytest.raises(UsageError, match="no tenant «gimp»") as caught:
        find_tenant("gimp", read_policy(POLICY))
    assert "Known: comfyui, render, blender." in caught.value.hint
    assert "[beside.gimp]" in caught.value.hint
