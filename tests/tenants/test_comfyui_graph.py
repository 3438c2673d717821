"""Workflows: which files are some, and what is changed before one is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narthex.errors import TenantError
from narthex.tenants.comfyui_graph import fresh, newest_workflow, read_workflow
from narthex.testing.fake_comfyui import portrait


def test_a_fresh_graph_has_another_seed_and_shows_previews() -> None:
    graph = fresh(portrait(seed=7))
    assert graph["4"]["inputs"]["seed"] != 7
    assert graph["4"]["inputs"]["model"] == ["1", 0]
    assert graph["6"] == {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}}
    assert portrait()["6"]["class_type"] == "SaveImage"


def test_a_seed_that_comes_from_another_node_is_left() -> None:
    node = {"class_type": "KSampler", "inputs": {"seed": ["9", 0], "noise_seed": True}}
    assert fresh({"1": node})["1"] == node


@pytest.mark.parametrize("wrap", [False, True])
def test_a_workflow_of_the_api_is_read(tmp_path: Path, wrap: bool) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps({"prompt": portrait()} if wrap else portrait()))
    assert read_workflow(path) == portrait()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "it is no JSON"),
        ('{"nodes": [], "links": []}', "the format of the page"),
        ("{}", "no nodes are in it"),
        ("[1]", "no nodes are in it"),
        ('{"1": {"inputs": {}}}', "no nodes are in it"),
    ],
)
def test_any_other_file_is_refused_with_the_way_out(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(TenantError, match=words) as caught:
        read_workflow(path)
    assert "Export (API)" in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TenantError, match="There is no workflow"):
        read_workflow(tmp_path / "gone.json")


def test_the_newest_workflow_is_the_first_that_ended_well() -> None:
    good = {"status": {"status_str": "success"}, "prompt": [1, "id", portrait(), {}, ["6"]]}
    bad = {"status": {"status_str": "error"}, "prompt": [2, "id", portrait(1), {}, ["6"]]}
    odd = {"status": {"status_str": "success"}, "prompt": "?"}
    assert newest_workflow([bad, odd, good]) == portrait()
    assert newest_workflow([bad, {}]) is None
