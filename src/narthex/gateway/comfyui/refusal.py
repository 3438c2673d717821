"""A Trouble in ComfyUI's own error shape, which its page and OpenWebUI know how to read."""

from __future__ import annotations

import math

import msgspec
from aiohttp import web

from narthex.gateway.trouble import Trouble


def refused(trouble: Trouble) -> web.Response:
    """The answer for a request that was not passed on, or not answered."""
    body = {
        "error": {
            "type": trouble.cause,
            "message": trouble.text,
            "details": trouble.remedy,
            "extra_info": trouble.figures,
        },
        "node_errors": {},
    }
    headers = {"Content-Type": "application/json"}
    if trouble.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(trouble.retry_after_s)))
    return web.Response(status=trouble.status, body=msgspec.json.encode(body), headers=headers)
