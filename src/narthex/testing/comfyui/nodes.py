"""The nodes that the fake ComfyUI knows: what they need, and what they do.

Validation errors have ComfyUI's own types and fields. A sampler really computes on the CPU until its time is
over, and says how far it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CHECKPOINT = "model.safetensors"


class Interrupted(Exception):
    """The prompt was interrupted; checked between steps, as ComfyUI does."""


@dataclass(frozen=True)
class Node:
    """``needs``: required inputs, with the least value of a number; ``output``: it ends a workflow."""

    needs: dict[str, float | None]
    output: bool = False
    work: str = ""  # "load", "sample", "decode", "save"


NODES: dict[str, Node] = {
    "EmptyImage": Node({"width": 1, "height": 1, "batch_size": 1, "color": 0}),
    "EmptyLatentImage": Node({"width": 16, "height": 16, "batch_size": 1}),
    "CheckpointLoaderSimple": Node({"ckpt_name": None}, work="load"),
    "CLIPTextEncode": Node({"text": None, "clip": None}),
    "KSampler": Node(
        {"model": None, "seed": 0, "steps": 1, "positive": None, "negative": None, "latent_image": None},
        work="sample",
    ),
    "VAEDecode": Node({"samples": None, "vae": None}, work="decode"),
    "SaveImage": Node({"images": None, "filename_prefix": None}, output=True, work="save"),
    "PreviewImage": Node({"images": None}, output=True, work="save"),
}


def refusal(graph: dict[str, Any]) -> dict[str, Any] | None:
    """The body of a 400 for a graph that can't run; None for a good one."""
    for node_id, node in graph.items():
        name = node.get("class_type") if isinstance(node, dict) else None
        if name not in NODES:
            message = f"Cannot execute because node {name} does not exist."
            if name is None:
                message = "Cannot execute because a node is missing the class_type property."
            return error_body("missing_node_type", message, f"Node ID '#{node_id}'")
    outputs = output_ids(graph)
    if not outputs:
        return error_body("prompt_no_outputs", "Prompt has no outputs", "")
    faults = {node_id: errors for node_id, node in graph.items() if (errors := _faults(node, graph))}
    if not faults:
        return None
    body = error_body("prompt_outputs_failed_validation", "Prompt outputs failed validation", "")
    body["node_errors"] = {
        node_id: {
            "errors": errors,
            "dependent_outputs": outputs,
            "class_type": graph[node_id]["class_type"],
        }
        for node_id, errors in faults.items()
    }
    return body


def error_body(kind: str, message: str, details: str) -> dict[str, Any]:
    """As ComfyUI answers 400."""
    return {
        "error": {"type": kind, "message": message, "details": details, "extra_info": {}},
        "node_errors": {},
    }


def output_ids(graph: dict[str, Any]) -> list[str]:
    """Nodes that give the user something."""
    return [node_id for node_id, node in graph.items() if NODES[node["class_type"]].output]


def in_order(graph: dict[str, Any]) -> list[str]:
    """Node ids, each after those it takes something from."""
    done: list[str] = []

    def visit(node_id: str) -> None:
        if node_id in done:
            return
        for value in graph[node_id].get("inputs", {}).values():
            if _is_link(value, graph):
                visit(value[0])
        done.append(node_id)

    for node_id in graph:
        visit(node_id)
    return done


def signature(node_id: str, graph: dict[str, Any]) -> str:
    """What a node's result depends on: its class, its inputs, and those of the nodes before it."""
    node = graph[node_id]
    parts = [node["class_type"]]
    for name, value in sorted(node.get("inputs", {}).items()):
        parts.append(f"{name}={signature(value[0], graph) if _is_link(value, graph) else value!r}")
    return "(" + " ".join(parts) + ")"


def compute(seconds: float, steps: int, step: Callable[[int], None]) -> None:
    """Work on the CPU; ``step`` is told each one's number and may raise Interrupted."""
    for number in range(1, steps + 1):
        until = time.monotonic() + seconds / steps
        value = 1.0
        while time.monotonic() < until:
            for _ in range(1000):
                value = math.sin(value) + 1.0
            time.sleep(0.001)  # two cores are shared with the tests themselves
        step(number)


def _faults(node: dict[str, Any], graph: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    inputs = node.get("inputs", {})
    for name, least in NODES[node["class_type"]].needs.items():
        value = inputs.get(name)
        if name not in inputs:
            found.append(_fault("required_input_missing", "Required input is missing", name))
        elif isinstance(value, list) and not _is_link(value, graph):
            found.append(_fault("bad_linked_input", "Bad linked input, must be a length-2 list", name))
        elif name == "ckpt_name" and value != CHECKPOINT:
            details = f"ckpt_name: '{value}' not in ['{CHECKPOINT}']"
            found.append(_fault("value_not_in_list", "Value not in list", details))
        elif least is not None and isinstance(value, int | float) and value < least:
            message = f"Value {value} smaller than min of {least}"
            found.append(_fault("value_smaller_than_min", message, name))
    return found


def _fault(kind: str, message: str, details: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def _is_link(value: Any, graph: dict[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in graph
