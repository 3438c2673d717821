"""Writes small GGUF files: real headers of any shape, with the weights left out as a hole in a sparse file.

An engine's dry run and our own reader see a whole file of the full apparent size, and the disk holds only
the header.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from narthex.models.quants import TENSOR_TYPES, TYPE_IDS, tensor_bytes

_STRING, _ARRAY = 8, 9
_SCALARS = {  # GGUF type id and struct code
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "?"),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}

Tensor = tuple[str, tuple[int, ...], str]  # name, dims in ggml order (fastest first), type name as in "Q4_K"


class Typed(NamedTuple):
    """A metadata value of an explicit GGUF type; for a list ``kind`` is the type of its elements.

    ``kind`` is one of u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str.
    """

    kind: str
    value: Any


def header_bytes(
    metadata: Mapping[str, Any], tensors: Iterable[Tensor], *, alignment: int = 32, version: int = 3
) -> tuple[bytes, int]:
    """The header, padded to ``alignment``, and the bytes of weights that belong behind it.

    Plain values get the usual types: bool, str, u32 (i32 below zero, u64 above 2³²), f32, and a list the
    type of its first element. Another alignment than 32 is added to the metadata.
    """
    pairs = dict(metadata)
    if alignment != 32:
        pairs["general.alignment"] = alignment
    infos, offset = [], 0
    for name, dims, type_name in tensors:
        number = TYPE_IDS[type_name]
        infos.append(_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, offset))
        offset += -(-tensor_bytes(dims, TENSOR_TYPES[number]) // alignment) * alignment
    head = struct.pack("<4sIQQ", b"GGUF", version, len(infos), len(pairs))
    head += b"".join(_string(key) + _value(value) for key, value in pairs.items()) + b"".join(infos)
    return head + bytes(-len(head) % alignment), offset


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Iterable[Tensor] = (),
    *,
    alignment: int = 32,
    version: int = 3,
) -> Path:
    """Write a GGUF file whose weights are a hole: full apparent size, only the header on disk.

    >>> write_gguf("a.gguf", {"general.architecture": "llama", "llama.block_count": 1,
    ...                       "x": Typed("u64", [1, 2])}, [("token_embd.weight", (64, 100), "F16")])
    """
    head, weights = header_bytes(metadata, tensors, alignment=alignment, version=version)
    target = Path(path)
    with target.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + weights)
    return target


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    kind, plain = value if isinstance(value, Typed) else (None, value)
    if isinstance(plain, (list, tuple)):
        kind = kind or (_kind_of(plain[0]) if plain else "u32")
        number, code = _SCALARS.get(kind, (_STRING, ""))
        head = struct.pack("<IIQ", _ARRAY, number, len(plain))
        if number == _STRING:
            return head + b"".join(map(_string, plain))
        return head + struct.pack(f"<{len(plain)}{code}", *plain)
    number, code = _SCALARS.get(kind or _kind_of(plain), (_STRING, ""))
    head = struct.pack("<I", number)
    return head + (_string(plain) if number == _STRING else struct.pack(f"<{code}", plain))


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "str"
    if isinstance(value, float):
        return "f32"
    return "i32" if value < 0 else "u32" if value < 2**32 else "u64"
