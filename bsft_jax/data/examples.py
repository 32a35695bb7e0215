"""Examples: token ids with the weight of predicting each, one by one and many in flat arrays."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """One document: `ids` int32 [T] and, for each id, the weight of predicting it, float32 [T].

    `reserved` counts the tokens that the longest arm writes for the record and this one does not:
    all arms plan with the same lengths.
    """

    ids: np.ndarray
    weights: np.ndarray
    reserved: int = 0

    @property
    def length(self) -> int:
        """Tokens in the longest arm."""
        return len(self.ids) + self.reserved


@dataclasses.dataclass(frozen=True)
class ExampleStore:
    """Many examples in flat arrays; `starts` has one entry more than there are examples."""

    ids: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    reserved: np.ndarray

    @classmethod
    def from_examples(cls, examples: Sequence[Example]) -> ExampleStore:
        return cls(
            ids=np.concatenate([example.ids for example in examples]),
            weights=np.concatenate([example.weights for example in examples]),
            starts=np.cumsum([0, *(len(example.ids) for example in examples)]),
            reserved=np.asarray([example.reserved for example in examples]),
        )

    @classmethod
    def joined(cls, stores: Sequence[ExampleStore]) -> ExampleStore:
        """The examples of several stores, in their order."""
        if len(stores) == 1:
            return stores[0]
        lengths = np.concatenate([np.diff(store.starts) for store in stores])
        return cls(
            ids=np.concatenate([store.ids for store in stores]),
            weights=np.concatenate([store.weights for store in stores]),
            starts=np.cumsum([0, *lengths]),
            reserved=np.concatenate([store.reserved for store in stores]),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Example:
        part = slice(self.starts[index], self.starts[index + 1])
        return Example(self.ids[part], self.weights[part], int(self.reserved[index]))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example in the longest arm: what a plan packs."""
        return np.diff(self.starts) + self.reserved

    @property
    def hash(self) -> str:
        """SHA-256 of ids, weights and boundaries, in hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.ids, self.weights, self.starts):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
