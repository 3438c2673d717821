"""Reads what an engine says of itself: as much of it as makes sense."""

from __future__ import annotations

import aiohttp

MOST_BYTES = 64 << 20
"""Some times the largest list or description there is. What has no end is no Ollama."""


async def whole_of(answer: aiohttp.ClientResponse, most: int = MOST_BYTES) -> bytes:
    """All of an answer. Raises aiohttp.ClientPayloadError where it is longer than ``most`` bytes."""
    pieces, count = [], 0
    async for piece in answer.content.iter_any():
        pieces.append(piece)
        count += len(piece)
        if count > most:
            answer.close()
            raise aiohttp.ClientPayloadError("the answer has no end")
    return b"".join(pieces)
