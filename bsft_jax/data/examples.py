"""Examples (token ids with the weight of predicting each) and batches of packed examples."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bsft_jax.records.record import Record


@dataclasses.dataclass(frozen=True)
class Example:
    """Holds one rendered record.

    Attributes:
      ids: token ids, int32 [T].
      weights: loss weight of predicting each id, float32 [T].
      reserved: tokens that the longest arm writes for the record and this one does not. All arms
        plan with the same lengths.
    """

    ids: np.ndarray
    weights: np.ndarray
    reserved: int = 0

    @property
    def length(self) -> int:
        """Returns the number of tokens in the longest arm."""
        return len(self.ids) + self.reserved


def concatenate_examples(examples: Sequence[Example]) -> Example:
    """Returns the examples one after the other, as one."""
    return Example(
        np.concatenate([example.ids for example in examples]),
        np.concatenate([example.weights for example in examples]),
        sum(example.reserved for example in examples),
    )


@dataclasses.dataclass(frozen=True)
class ExampleStore:
    """Holds many examples in flat arrays.

    Attributes:
      ids: token ids of all examples, int32.
      weights: their loss weights, float32.
      starts: where each example begins in `ids`, and, as the last entry, where the last one ends.
      reserved: `Example.reserved` of each.
      levels: difficulty level of the record of each, int8; 0 for none.
      pairs: number of the pair that the record of each belongs to, int32; -1 for none.
    """

    ids: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    reserved: np.ndarray
    levels: np.ndarray
    pairs: np.ndarray

    @classmethod
    def from_examples(
        cls, examples: Sequence[Example], records: Sequence[Record] = ()
    ) -> ExampleStore:
        """Copies examples into flat arrays.

        Without the `records` of the examples, none has a difficulty level or belongs to a pair.
        """
        pair_ids = [record.pair_id for record in records] or [''] * len(examples)
        numbers = {'': -1}
        for pair_id in pair_ids:
            numbers.setdefault(pair_id, len(numbers) - 1)
        return cls(
            ids=np.concatenate([example.ids for example in examples]),
            weights=np.concatenate([example.weights for example in examples]),
            starts=np.cumsum([0, *(len(example.ids) for example in examples)]),
            reserved=np.asarray([example.reserved for example in examples]),
            levels=np.asarray(
                [record.difficulty or 0 for record in records] or [0] * len(examples), np.int8
            ),
            pairs=np.asarray([numbers[pair_id] for pair_id in pair_ids], np.int32),
        )

    @classmethod
    def joined(cls, stores: Sequence[ExampleStore]) -> ExampleStore:
        """Returns the examples of several stores, in order."""
        if len(stores) == 1:
            return stores[0]
        lengths = np.concatenate([np.diff(store.starts) for store in stores])
        first_pairs = np.cumsum([0, *(store.pairs.max(initial=-1) + 1 for store in stores)])
        return cls(
            ids=np.concatenate([store.ids for store in stores]),
            weights=np.concatenate([store.weights for store in stores]),
            starts=np.cumsum([0, *lengths]),
            reserved=np.concatenate([store.reserved for store in stores]),
            levels=np.concatenate([store.levels for store in stores]),
            pairs=np.concatenate(
                [
                    np.where(store.pairs < 0, -1, store.pairs + first)
                    for store, first in zip(stores, first_pairs[:-1], strict=True)
                ]
            ),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Example:
        span = slice(self.starts[index], self.starts[index + 1])
        return Example(self.ids[span], self.weights[span], int(self.reserved[index]))

    @property
    def lengths(self) -> np.ndarray:
        """Returns the tokens of each example in the longest arm, by which a plan packs them."""
        return np.diff(self.starts) + self.reserved

    @property
    def hash(self) -> str:
        """Returns the SHA-256 of ids, weights and boundaries, in hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.ids, self.weights, self.starts):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class Batch(NamedTuple):
    """Holds rows of packed examples; each example is one segment of its row.

    Attributes:
      tokens_BT: token ids, int32.
      targets_BT: the next token of the same segment; 0 with weight 0 at its last token.
      weights_BT: loss weight of the target, float32.
      segment_ids_BT: 1, 2, … for the segments of a row; 0 is padding.
      positions_BT: position within the segment, from 0.
    """

    tokens_BT: np.ndarray
    targets_BT: np.ndarray
    weights_BT: np.ndarray
    segment_ids_BT: np.ndarray
    positions_BT: np.ndarray
