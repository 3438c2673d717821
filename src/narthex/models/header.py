"""``Header``: the metadata and the tensor table of one GGUF file, read without touching its weights.

The file is mapped and walked once. Every count is compared with the bytes that are left before anything
is looped over or allocated, so a damaged file costs a sentence and no memory. Layout: the GGUF
specification (``docs/gguf.md`` of ggml) and ``gguf.cpp`` of llama.cpp b11434.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import stat
import struct
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from narthex.errors import ModelFileError
from narthex.models.inspection import ArrayLength, TensorInfo
from narthex.models.quants import TENSOR_TYPES, tensor_bytes

# limits far above any model known; they bound what a hostile file can cost
_MAX_HEADER = 256 * 2**20  # bytes; a vocabulary of 262,208 tokens takes 7 MB
_MAX_KEYS = 4096
_MAX_TENSORS = 65536
_MAX_NAME = 65535  # bytes of a key, by the specification
_MAX_DIMS = 4  # GGML_MAX_DIMS
_KEPT_STRING = 64 * 1024  # longer values are kept as their length
_KEPT_NUMBERS = 1024  # arrays: twice LLAMA_MAX_LAYERS, so every per-layer array is kept
_KEPT_STRINGS = 64

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: ("u8", struct.Struct("<B")),
    1: ("i8", struct.Struct("<b")),
    2: ("u16", struct.Struct("<H")),
    3: ("i16", struct.Struct("<h")),
    4: ("u32", struct.Struct("<I")),
    5: ("i32", struct.Struct("<i")),
    6: ("f32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<?")),
    10: ("u64", struct.Struct("<Q")),
    11: ("i64", struct.Struct("<q")),
    12: ("f64", struct.Struct("<d")),
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

# 64 strings of up to 31 bytes in one match: twice as fast as stepping over them one by one in Python.
# The match is possessive and each alternative starts with another byte, so it never backtracks.
_CHUNK = 64
_SHORT_STRINGS = re.compile(
    b"(?s:(?:%b)){%d}+"
    % (b"|".join(re.escape(bytes([size])) + rb"\x00{7}.{%d}" % size for size in range(32)), _CHUNK)
)

T = TypeVar("T")

_DOWNLOAD = "Download the file again, or check it against the checksum of its source."


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """``digest`` is SHA-256 over the header's bytes and the file's size."""

    path: Path
    file_bytes: int
    data_offset: int  # bytes from the start of the file to the first tensor
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    digest: bytes


def read_header(path: Path, file_index: int = 0) -> Header:
    """Read one GGUF file's header; ``file_index`` is noted in its tensors. Raises ModelFileError."""
    return _walk(path, lambda walk: walk.header(file_index))


def read_metadata(path: Path) -> dict[str, Any]:
    """Read one GGUF file's metadata only. Raises ModelFileError."""
    return _walk(path, lambda walk: walk.metadata(walk.counts()[1]))


def printable(text: str) -> str:
    """Text from a file, safe for a terminal: no control characters, nothing that can't be encoded."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _walk(path: Path, read: Callable[[_Walk], T]) -> T:
    try:
        if not stat.S_ISREG((info := path.stat()).st_mode):
            what = "a folder" if stat.S_ISDIR(info.st_mode) else "no regular file"
            raise ModelFileError(f"{path} is {what}.", hint="Name the .gguf file of a model.")
        with path.open("rb") as file:
            _check_magic(path, file.read(8), info.st_size)
            with mmap.mmap(file.fileno(), min(info.st_size, _MAX_HEADER), access=mmap.ACCESS_READ) as data:
                return read(_Walk(path, data, info.st_size))
    except FileNotFoundError:
        hint = "Check the path; «narthex inspect demo» shows a model that is built in."
        raise ModelFileError(f"There is no file {path}.", hint=hint) from None
    except PermissionError:
        raise ModelFileError(f"You may not read {path}.", hint="Check the file's permissions.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(
            f"{path} can't be read: {reason}.", hint="Check the path and the disk."
        ) from None


def _check_magic(path: Path, start: bytes, size: int) -> None:
    if not size:
        raise ModelFileError(f"{path} is empty.", hint=_DOWNLOAD)
    if not start.startswith(b"GGUF"):
        hint = "llama-server reads GGUF files; convert other formats with llama.cpp's convert_hf_to_gguf.py."
        raise ModelFileError(f"{path} is not a GGUF file.", hint=hint)
    if len(start) < 8:
        raise ModelFileError(f"{path} ends inside its header.", hint=_DOWNLOAD)
    (version,) = _U32.unpack_from(start, 4)
    if version in (2, 3):
        return
    if version == 1:
        message = f"{path} is GGUF version 1, which engines no longer read."
    elif version and not version & 0xFFFF:
        message = f"{path} is a big-endian GGUF file, which this machine's engines can't read."
    else:
        message = f"{path} is GGUF version {version}; versions 2 and 3 can be read."
    raise ModelFileError(message, hint="Get a current file of this model, or convert it again.")


class _Walk:
    """One pass over a mapped header; ``at`` is the offset of the next byte."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size = path, data, size
        self.end = len(data)
        self.at = 4

    def header(self, file_index: int) -> Header:
        tensor_count, key_count = self.counts()
        metadata = self.metadata(key_count)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            self.fail(f"gives an alignment of {alignment!r}, which is no power of two")
        entries = [self.tensor(file_index) for _ in range(tensor_count)]
        digest = hashlib.sha256(_U64.pack(self.size))
        with memoryview(self.data) as view, view[: self.at] as header:
            digest.update(header)
        data_offset = -(-self.at // alignment) * alignment
        self.check_tensors(entries, data_offset, alignment)
        return Header(
            path=self.path,
            file_bytes=self.size,
            data_offset=data_offset,
            metadata=metadata,
            tensors=tuple(entries),
            digest=digest.digest(),
        )

    def counts(self) -> tuple[int, int]:
        """Number of tensors and of metadata entries."""
        self.take(4)  # the version, checked before
        tensors, keys = self.number(_U64), self.number(_U64)
        if tensors > min(_MAX_TENSORS, self.left() // 24):  # a tensor's entry takes 24 bytes and more
            self.fail(f"claims {tensors:,} tensors")
        if keys > min(_MAX_KEYS, self.left() // 13):  # a key, its type and a value take 13 and more
            self.fail(f"claims {keys:,} metadata entries")
        return tensors, keys

    def fail(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path} is damaged: it {printable(what)}.", hint=_DOWNLOAD)

    def left(self) -> int:
        return self.end - self.at

    def take(self, count: int) -> int:
        """Step over ``count`` bytes; the offset they start at. Fails where the file ends before."""
        start = self.at
        if count > self.end - start:
            if count <= self.size - start:
                self.fail(f"has a header of more than {_MAX_HEADER // 2**20} MiB")
            raise ModelFileError(f"{self.path} ends inside its header.", hint=_DOWNLOAD)
        self.at = start + count
        return start

    def number(self, form: struct.Struct) -> Any:
        return form.unpack_from(self.data, self.take(form.size))[0]

    def name(self, what: str) -> str:
        length = self.number(_U64)
        if length > _MAX_NAME:
            self.fail(f"claims a {what} of {length:,} bytes")
        start = self.take(length)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError:
            self.fail(f"holds a {what} that is no UTF-8 text")

    def metadata(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.name("metadata key")
            if key in found:
                self.fail(f"holds the metadata key «{key}» twice")
            kind = self.number(_U32)
            if kind == _ARRAY:
                found[key] = self.array(key)
            elif kind == _STRING:
                found[key] = self.text()
            elif kind in _SCALARS:
                found[key] = self.number(_SCALARS[kind][1])
            else:
                self.fail(f"gives «{key}» the unknown value type {kind}")
        return found

    def text(self) -> str | ArrayLength:
        length = self.number(_U64)
        start = self.take(length)
        if length > _KEPT_STRING:
            return ArrayLength(length, "byte")
        return self.data[start : start + length].decode(errors="replace")

    def array(self, key: str) -> tuple[Any, ...] | ArrayLength:
        kind, length = self.number(_U32), self.number(_U64)
        if kind == _STRING:
            if length > self.left() // 8:
                self.fail(f"claims {length:,} strings in «{key}»")
            if length <= _KEPT_STRINGS:
                return tuple(self.text() for _ in range(length))
            self.skip_strings(length)
            return ArrayLength(length, "string")
        if kind not in _SCALARS:
            what = (
                "arrays, which GGUF files of models never hold"
                if kind == _ARRAY
                else f"the unknown type {kind}"
            )
            self.fail(f"fills the array «{key}» with {what}")
        word, form = _SCALARS[kind]
        if length > self.left() // form.size:
            self.fail(f"claims {length:,} values in «{key}»")
        start = self.take(length * form.size)
        if length > _KEPT_NUMBERS:
            return ArrayLength(length, word)
        return struct.unpack_from(f"<{length}{form.format[-1]}", self.data, start)

    def skip_strings(self, count: int) -> None:
        """Step over ``count`` strings without making an object of any."""
        data, at, end = self.data, self.at, self.end
        match, size_at = _SHORT_STRINGS.match, _U64.unpack_from
        try:
            for _ in repeat(None, count // _CHUNK):
                if found := match(data, at):
                    at = found.end()
                    continue
                for _ in repeat(None, _CHUNK):
                    at += 8 + size_at(data, at)[0]
            for _ in repeat(None, count % _CHUNK):
                at += 8 + size_at(data, at)[0]
        except (struct.error, OverflowError):  # stepped over the end: the size of the last string is wrong
            at = end + 1
        self.take(at - self.at)

    def tensor(self, file_index: int) -> TensorInfo:
        name = self.name("tensor name")
        rank = self.number(_U32)
        if rank > _MAX_DIMS:
            self.fail(f"gives the tensor «{name}» {rank:,} dimensions")
        dims = struct.unpack_from(f"<{rank}Q", self.data, self.take(8 * rank))
        kind = TENSOR_TYPES.get(self.number(_U32))
        if kind is None:
            self.fail(f"stores the tensor «{name}» in a type this program does not know")
        elements = 1
        for size in dims:
            elements *= max(size, 1)
        if elements >= 2**63:
            self.fail(f"gives the tensor «{name}» an impossible size")
        if dims and dims[0] % kind.block:
            self.fail(f"cuts a row of the tensor «{name}» inside a {kind.name} block")
        return TensorInfo(name, dims, kind.name, tensor_bytes(dims, kind), self.number(_U64), file_index)

    def check_tensors(self, tensors: list[TensorInfo], data_offset: int, alignment: int) -> None:
        if len({tensor.name for tensor in tensors}) < len(tensors):
            self.fail("holds two tensors of one name")
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset % alignment:
                self.fail(f"puts the tensor «{tensor.name}» at an offset that is not aligned")
            if tensor.offset < end:
                self.fail(f"lets the tensor «{tensor.name}» overlap another")
            end = tensor.offset + tensor.nbytes
        missing = data_offset + end - self.size if tensors else 0
        if missing > 0:
            raise ModelFileError(
                f"{self.path} is cut off: {missing:,} bytes of {data_offset + end:,} are missing.",
                hint=_DOWNLOAD,
            )
