"""Lines of ComfyUI: refused graphs, failed nodes, finished jobs."""

from __future__ import annotations

from narthex.doctor.sign import Sign

MISSING_NODE = Sign(
    r"Cannot execute because (?:node (?P<node>.+?) does not exist|a node is missing the class_type)"
    r"|missing_node_type|Node '(?P<title>[^']+)' not found",
    words=["cannot execute because", "missing_node_type", "' not found"],
)
NOT_IN_LIST = Sign(
    r"Value not in list: (?P<field>\w+): '(?P<value>[^']*)' not in (?P<known>\[.*\]?|\(list of length \d+\)"
    r"|.*)",
    words=["value not in list"],
)
INVALID_PROMPT = Sign(
    r"prompt_outputs_failed_validation|Prompt outputs failed validation|prompt_no_outputs"
    r"|Failed to validate prompt for output (?P<output>\S+?):|invalid prompt: (?P<what>.+)",
    words=["failed_validation", "failed validation", "prompt_no_outputs", "failed to validate prompt",
           "invalid prompt:"],
)  # fmt: skip
INVALID_IMAGE = Sign(r"Custom validation failed for node: (?P<what>.+)", words=["custom validation failed"])
EXCEPTION = Sign(  # the log's line, and the report that the page gives to copy
    r"(?:!!! Exception during processing ?!*|\*\*Exception Message:\*\*)(?P<what>.*)",
    words=["exception during processing", "**exception message:"],
)
INTERRUPTED = Sign(r"\bProcessing interrupted$", words=["processing interrupted"])
IMPORT_FAILED = Sign(
    r"\(IMPORT FAILED\):? (?P<path>.+)|Cannot import (?P<other>\S+) module for custom nodes",
    words=["(import failed)", "module for custom nodes"],
)
DONE = Sign(r"Prompt executed in (?P<seconds>[\d.:]+)", words=["prompt executed in"])
STARTED = Sign(r"To see the GUI go to: (?P<url>\S+)", words=["to see the gui go to"])
ORIGIN_REFUSED = Sign(
    r"request with non matching host and origin (?P<host>\S+) != (?P<origin>\S+?), returning 403",
    words=["non matching host and origin"],
)
