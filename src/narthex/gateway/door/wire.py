"""``wire_logger``: what aiohttp's server says, without what anybody on the wire can make it say."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

_NAME = "narthex.gateway.wire"


def wire_logger() -> logging.Logger:
    """For ``web.Server(logger=…)``. A request that is no HTTP gets its 400, and no traceback in the log:
    else whoever reaches the port could fill it."""
    logger = logging.getLogger(_NAME)
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
