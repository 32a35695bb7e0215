"""Reads the header of a GGUF file: its metadata, and where its tensors are.

Every size that a file claims is compared with the file before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import pathlib
import struct
from typing import Any, TypeVar

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from bsft_jax.errors import UserError
from bsft_jax.hub import fields

Metadata = dict[str, Any]
T = TypeVar('T')

_MAGIC = b'GGUF'
# Version 1 counted in 32 bits.
_VERSIONS = 2, 3
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
# Kind of a value → its format in numpy; strings and arrays have a length of their own.
_SCALARS = {
    **{0: 'u1', 1: 'i1', 2: '<u2', 3: '<i2', 4: '<u4', 5: '<i4', 6: '<f4', 7: '?'},
    **{10: '<u8', 11: '<i8', 12: '<f8'},
}


@dataclasses.dataclass(frozen=True)
class Stored:
    """Says how a tensor is stored.

    Attributes:
      shape: its shape as in torch, the fastest dimension last.
      type: quantization or dtype of its values.
      start: its first byte in the file.
      row_bytes: bytes of a row, that is of the last dimension.
    """

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    start: int
    row_bytes: int

    @property
    def num_rows(self) -> int:
        """Returns the number of rows; a vector is one row."""
        return math.prod(self.shape[:-1])


@dataclasses.dataclass(frozen=True)
class Header:
    """Holds what a GGUF file says of itself.

    Attributes:
      path: the file, for error messages.
      metadata: key → value; an array of numbers is a numpy array, one of texts a list.
      tensors: name → where and how it is stored.
    """

    path: str
    metadata: Metadata
    tensors: dict[str, Stored]

    def value(self, key: str, kind: type[T], default: T) -> T:
        """Returns the value of a key, or the default where there is none.

        Raises UserError for a value of another type.
        """
        value = self.metadata.get(key, default)
        if type(value) is not kind:
            message = f'{key} is {fields.shorten(value)}, not of the type {kind.__name__}'
            raise UserError(message, where=self.path)
        return value


class _Damaged(Exception):
    """Signals bytes that are no whole GGUF file, with the reason."""


def read_header(path: pathlib.Path) -> Header:
    """Reads the header of a GGUF file.

    Raises UserError for a file that is no GGUF file or not all of one, for one of another version,
    and for a tensor of a kind that the `gguf` package does not know.
    """
    fix = 'download or convert it again'
    try:
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, path).header()
    except (_Damaged, struct.error) as error:
        raise UserError(f'no whole GGUF file ({error})', where=str(path), fix=fix) from error
    except UnicodeDecodeError as error:
        reason = 'a text is not UTF-8'
        raise UserError(f'no whole GGUF file ({reason})', where=str(path), fix=fix) from error
    # mmap raises ValueError for an empty file.
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'no whole GGUF file ({error})', where=str(path), fix=fix) from error


class _Reader:
    """Walks through the bytes of a header."""

    def __init__(self, data: mmap.mmap, path: pathlib.Path):
        self._data, self._path, self._position = data, path, 0

    def header(self) -> Header:
        """Returns the header, read from the first byte on."""
        if self._data[: len(_MAGIC)] != _MAGIC:
            raise _Damaged(f'it begins with {self._data[: len(_MAGIC)]!r}, not {_MAGIC!r}')
        self._position = len(_MAGIC)
        if (version := self._unpack('<I')) not in _VERSIONS:
            raise _Damaged(f'its version is {version}, not 2 or 3 in little-endian order')
        num_tensors, num_keys = self._unpack('<Q'), self._unpack('<Q')
        metadata: Metadata = {}
        for _ in range(num_keys):
            key = self._text()
            if key in metadata:
                raise _Damaged(f'the key {key} is there twice')
            metadata[key] = self._value(self._unpack('<I'))
        alignment = metadata.get('general.alignment', _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise _Damaged(f'its alignment is {alignment!r}')
        tensors: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(num_tensors):
            name = self._text()
            if name in tensors:
                raise _Damaged(f'the tensor {name} is there twice')
            tensors[name] = self._tensor(name)
        first = -(-self._position // alignment) * alignment
        stored = {name: self._stored(name, *t, first) for name, t in tensors.items()}
        return Header(str(self._path), metadata, stored)

    def _take(self, size: int) -> int:
        """Returns the position of the next `size` bytes, and steps over them."""
        position, self._position = self._position, self._position + size
        self._check_end(self._position)
        return position

    def _check_end(self, end: int) -> None:
        if end > len(self._data):
            raise _Damaged(f'its header needs {end:,} bytes, the file has {len(self._data):,}')

    def _unpack(self, format: str) -> Any:
        return struct.unpack_from(format, self._data, self._take(struct.calcsize(format)))[0]

    def _text(self) -> str:
        size = self._unpack('<Q')
        start = self._take(size)
        return self._data[start : start + size].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            kind, count = self._unpack('<I'), self._unpack('<Q')
            if kind == _STRING:
                # Each takes the 8 bytes of its length at least.
                self._check_end(self._position + 8 * count)
                return [self._text() for _ in range(count)]
            return self._numbers(kind, count)
        return self._numbers(kind, 1)[0].item()

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in _SCALARS:
            raise _Damaged(f'a value of the unknown kind {kind}')
        dtype = np.dtype(_SCALARS[kind])
        start = self._take(count * dtype.itemsize)
        return np.frombuffer(self._data[start : self._position], dtype)

    def _tensor(self, name: str) -> tuple[tuple[int, ...], int, int]:
        """Returns the shape of a tensor, its kind, and its position behind the header."""
        if not 1 <= (num_dimensions := self._unpack('<I')) <= _MAX_DIMENSIONS:
            raise _Damaged(f'{name} has {num_dimensions} dimensions')
        shape = tuple(self._unpack('<Q') for _ in range(num_dimensions))[::-1]
        return shape, self._unpack('<I'), self._unpack('<Q')

    def _stored(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int, first: int
    ) -> Stored:
        try:
            block, block_bytes = GGML_QUANT_SIZES[type_ := GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise UserError(
                f'{name} is quantized in a way that is not known (kind {kind})',
                where=str(self._path),
                fix='name a file in Q8_0, Q4_K, F16 or another common kind',
            ) from error
        if shape[-1] % block:
            raise _Damaged(f'the rows of {name} are no whole blocks of {type_.name}')
        stored = Stored(shape, type_, first + offset, shape[-1] // block * block_bytes)
        end = stored.start + stored.num_rows * stored.row_bytes
        if end > len(self._data):
            raise _Damaged(
                f'{name} ends at byte {end:,}, the file at {len(self._data):,}: it is cut'
            )
        return stored
