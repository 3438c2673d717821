"""Pictures and sounds: Ollama takes bare base64, OpenAI's API a part that says what it is."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from narthex.gateway.translate.fields import bad, not_mappable

_HEAD = 24  # letters of base64 that hold the first 18 bytes
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_SOUNDS = ((b"ID3", "mp3"), (b"\xff\xfb", "mp3"), (b"\xff\xf3", "mp3"), (b"\xff\xf2", "mp3"))
_DATA_URL = re.compile(r"data:(?P<kind>[^;,]*)(?:;[^;,]*)*;base64,")


def part_of(picture: str) -> dict[str, Any]:
    """One of Ollama's ``images`` as a part of a message. Raises Trouble 400 where it is none."""
    if (found := _DATA_URL.match(picture)) is not None:
        picture = picture[found.end() :]
    head = _head_of(picture)
    if sound := _sound(head):
        return {"type": "input_audio", "input_audio": {"data": picture, "format": sound}}
    kind = _kind(head)
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{picture}"}}


def base64_of(url: str) -> str:
    """The base64 of a ``data:`` URL. Raises Trouble 400 for others: the gateway fetches nothing."""
    if (found := _DATA_URL.match(url)) is not None:
        return url[found.end() :]
    shown = url[:40]
    raise not_mappable(
        f"The picture «{shown}» is no data: URL in base64, and nothing is fetched for a client.",
        "Send the picture itself: data:image/png;base64,…",
    )


def _head_of(picture: str) -> bytes:
    try:
        return base64.b64decode(picture[:_HEAD].ljust(4, "="), validate=True)
    except (binascii.Error, ValueError):
        raise bad("An element of «images» is no base64.", "Send the file's bytes in base64.") from None


def _sound(head: bytes) -> str:
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    return next((kind for start, kind in _SOUNDS if head.startswith(start)), "")


def _kind(head: bytes) -> str:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    for start, kind in _KINDS:
        if head.startswith(start):
            return kind
    raise not_mappable(
        "An element of «images» is no PNG, JPEG, GIF, BMP or WebP, and no WAV or MP3.",
        "Convert it to PNG or JPEG.",
    )
