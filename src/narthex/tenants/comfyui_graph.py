"""The workflow a ComfyUI gets as a job: from a file or from its history, changed so that it really computes.

ComfyUI answers a graph that it has just computed from its cache, so each job gets new seeds. Images are shown
as previews, which ComfyUI keeps in its temporary folder, so that no job leaves files among the user's own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from narthex.errors import TenantError

Graph = dict[str, dict[str, Any]]

SEEDS = ("seed", "noise_seed")
_SEED_LIMIT = 2**32  # some nodes take no larger one
_EXPORT = "In ComfyUI, save it with «Export (API)»: that file names a class_type for each node."


def read_workflow(path: Path) -> Graph:
    """A workflow in the API's format. Raises TenantError for any other file."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise TenantError(f"There is no workflow {path}.", hint=_EXPORT) from error
    except OSError as error:
        raise TenantError(
            f"{path} can't be read: {error.strerror}.", hint="Check its permissions."
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TenantError(f"{path} is no workflow: it is no JSON.", hint=_EXPORT) from error
    if isinstance(found, dict) and is_graph(found.get("prompt")):
        found = found["prompt"]
    if not is_graph(found):
        page = isinstance(found, dict) and "nodes" in found
        why = "it is the format of the page, not of the API" if page else "no nodes are in it"
        raise TenantError(f"{path} is no workflow to send: {why}.", hint=_EXPORT)
    graph: Graph = found
    return graph


def newest_workflow(entries: Iterable[dict[str, Any]]) -> Graph | None:
    """Of the first history entry that ended well."""
    for entry in entries:
        prompt, status = entry.get("prompt"), entry.get("status") or {}
        if status.get("status_str") == "success" and isinstance(prompt, list) and len(prompt) > 2:
            graph: Graph = prompt[2]
            if is_graph(graph):
                return graph
    return None


def is_graph(found: Any) -> bool:
    """Whether it is a graph as the API takes it: node id → class and inputs."""
    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(node, dict) and "class_type" in node for node in found.values())
    )


def fresh(graph: Graph) -> Graph:
    """The graph with new seeds, its images as previews."""
    return {node_id: _fresh_node(node) for node_id, node in graph.items()}


def _fresh_node(node: dict[str, Any]) -> dict[str, Any]:
    inputs = dict(node.get("inputs") or {})
    for name in SEEDS:
        if isinstance(inputs.get(name), int) and not isinstance(inputs[name], bool):
            inputs[name] = random.randrange(_SEED_LIMIT)
    if node["class_type"] == "SaveImage" and "images" in inputs:
        return {"class_type": "PreviewImage", "inputs": {"images": inputs["images"]}}
    return {**node, "inputs": inputs}
