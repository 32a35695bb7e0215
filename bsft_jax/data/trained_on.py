"""Hashes the records that a model was trained on, and counts which of the scored ones are theirs.

A run keeps `trained_on.npz` in its workdir and copies it into exports. It holds no text, id or
name in clear, only hashes of 64 bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax import files
from bsft_jax.behaviorbench.splits import record_words
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record

FILE = 'trained_on.npz'
# Schemes of sources that are paths; the same folder has many spellings.
_PATH_SCHEMES = ('jsonl', 'hf', 'tfds')


def _hash(kind: str, *parts: str) -> int:
    data = '\0'.join((kind, *parts)).encode('utf-8', 'surrogatepass')
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')


def _identity(record: Record) -> int | None:
    """Returns the hash of the id within its case; None without both: files count from 1 each."""
    case = record.case_id or record.pair_id
    return _hash('identity', record.id, case) if record.id and case else None


def _ids(record: Record) -> list[int]:
    identity = _identity(record)
    ids = [_hash('id', record.id)] if record.id else []
    return ids if identity is None else [*ids, identity]


def _cases(record: Record) -> list[int]:
    names = (('case', record.case_id), ('pair', record.pair_id))
    return [_hash(kind, name) for kind, name in names if name]


def _texts(record: Record) -> list[int]:
    words = record_words(record)
    return [_hash('text', *words)] if words else []


_KEYS: dict[str, Callable[[Record], list[int]]] = {'ids': _ids, 'cases': _cases, 'texts': _texts}


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Counts scored records that a model was trained on.

    Attributes:
      scored: number of scored records.
      ids: records whose id was trained on; in another source it may be another record's.
      cases: records whose case or pair was trained on.
      texts: records whose words were trained on: messages and options, in any order of these.
      records: records whose words, or whose id within its case, were trained on.
    """

    scored: int
    ids: int
    cases: int
    texts: int
    records: int

    def __bool__(self) -> bool:
        return bool(self.records or self.cases)

    def to_dict(self) -> dict[str, int]:
        """Returns the entry `trained_on` of `metrics.json`."""
        counts = dataclasses.asdict(self)
        return {name: counts[name] for name in ('records', 'ids', 'cases', 'texts')}


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """Holds the hashes of all records that a model was trained on.

    Attributes:
      ids: of the ids, and of the ids within their cases, sorted.
      cases: of the names of cases and pairs, sorted.
      texts: of the words, sorted.
      digests: hash of the name of a source → digest of its training records.
    """

    ids: np.ndarray
    cases: np.ndarray
    texts: np.ndarray
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_records(cls, records: Iterable[Record]) -> TrainedOn:
        """Returns the hashes of records, of no source yet."""
        found: dict[str, set[int]] = {name: set() for name in _KEYS}
        for record in records:
            for name, keys in _KEYS.items():
                found[name].update(keys(record))
        return cls(**{name: np.asarray(sorted(keys), np.uint64) for name, keys in found.items()})

    @classmethod
    def joined(cls, parts: Sequence[TrainedOn]) -> TrainedOn:
        """Returns what all parts together were trained on."""
        arrays = {
            name: np.unique(np.concatenate([getattr(part, name) for part in parts]))
            for name in _KEYS
        }
        digests: dict[str, str] = {}
        for part in parts:
            digests |= part.digests
        return cls(**arrays, digests=digests)

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of the hashes, in hexadecimal."""
        digest = hashlib.sha256()
        for name in _KEYS:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(len(array).to_bytes(8, 'little') + array.tobytes())
        return digest.hexdigest()

    def from_source(self, source: str, digest: str) -> TrainedOn:
        """Returns the same of a source, which is not a mixture, and the digest of its records."""
        return dataclasses.replace(self, digests=dict.fromkeys(source_names(source), digest))

    def digest_of(self, source: str) -> str:
        """Returns the digest of the training records of a source; '' if it was not trained on."""
        return next((self.digests[n] for n in source_names(source) if n in self.digests), '')

    def overlap(self, records: Sequence[Record]) -> Overlap:
        """Counts the records that were trained on."""
        known = {name: frozenset(getattr(self, name).tolist()) for name in _KEYS}
        seen = {
            name: [not known[name].isdisjoint(keys(record)) for record in records]
            for name, keys in _KEYS.items()
        }
        either = [
            same_text or _identity(record) in known['ids']
            for same_text, record in zip(seen['texts'], records, strict=True)
        ]
        return Overlap(
            len(records), **{name: sum(own) for name, own in seen.items()}, records=sum(either)
        )

    def write(self, folder: pathlib.Path) -> None:
        """Writes the file of a workdir or an export, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            **{name: getattr(self, name) for name in _KEYS},
            sources=np.asarray(list(self.digests), np.bytes_),
            digests=np.asarray(list(self.digests.values()), np.bytes_),
        )
        files.write_bytes(folder / FILE, buffer.getvalue())


def source_names(source: str) -> list[str]:
    """Returns hashes of the name of a source: as it is written, and with its path resolved."""
    scheme, _, rest = source.partition(':')
    names = [source]
    if scheme in _PATH_SCHEMES and rest and os.path.exists(rest):
        names.append(f'{scheme}:{os.path.realpath(rest)}')
    return [f'{_hash("source", name):016x}' for name in names]


def read(*folders: str | pathlib.Path) -> TrainedOn | None:
    """Reads what the model of a workdir, or of a model's folders together, was trained on.

    Returns None where there is no file: what the model was trained on is not known. Raises
    UserError for a damaged file.
    """
    parts = [part for folder in folders if (part := _read(pathlib.Path(folder) / FILE)) is not None]
    return TrainedOn.joined(parts) if parts else None


def _read(path: pathlib.Path) -> TrainedOn | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: dict[str, Any] = {name: stored[name].astype(np.uint64) for name in _KEYS}
            sources = stored['sources'].astype(str).tolist()
            digests = stored['digests'].astype(str).tolist()
    except FileNotFoundError:
        return None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            'is damaged, so what the model was trained on is not known',
            where=str(path),
            fix='delete it to go on without knowing',
        ) from error
    return TrainedOn(**arrays, digests=dict(zip(sources, digests, strict=True)))
