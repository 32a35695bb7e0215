"""PackPlan: which records share which row, for every step of a run."""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import threading
from collections.abc import Mapping

import numpy as np

from bsft_jax.data.mixture import Mixture


def pack(
    lengths_N: np.ndarray, capacity: int, order_N: np.ndarray | None = None
) -> list[list[int]]:
    """Packs items into rows by best-fit decreasing.

    The longest item goes first, each into the fullest row that still has room for it. This takes
    O(N log capacity) beside the sort.

    Args:
      lengths_N: tokens of each item, 1 to `capacity`.
      capacity: tokens of a row.
      order_N: a permutation that breaks ties of length; default the given order.

    Returns:
      Rows of item indices.

    Raises ValueError for an item that is longer than a row.
    """
    lengths_N = np.asarray(lengths_N)
    if lengths_N.max(initial=0) > capacity:
        raise ValueError(f'an item of {lengths_N.max()} tokens is longer than a row of {capacity}')
    order_N = np.arange(len(lengths_N)) if order_N is None else order_N
    order_N = order_N[np.argsort(-lengths_N[order_N], kind='stable')]
    rows: list[list[int]] = []
    # Free tokens → the rows that have exactly so many; and the keys of that dict, ascending.
    open_rows: dict[int, list[int]] = {}
    free_sizes: list[int] = []
    for item, length in zip(order_N.tolist(), lengths_N[order_N].tolist(), strict=True):
        index = bisect.bisect_left(free_sizes, length)
        if index == len(free_sizes):
            row, free = len(rows), capacity
            rows.append([])
        else:
            free = free_sizes[index]
            row = open_rows[free].pop()
            if not open_rows[free]:
                del open_rows[free], free_sizes[index]
        rows[row].append(item)
        if remaining := free - length:
            if remaining not in open_rows:
                open_rows[remaining] = []
                bisect.insort(free_sizes, remaining)
            open_rows[remaining].append(row)
    return rows


def pair_units(
    pairs_N: np.ndarray, levels_N: np.ndarray, lengths_N: np.ndarray, capacity: int
) -> np.ndarray:
    """Numbers units of packing: the records of a pair that fit a row together, or one record.

    Args:
      pairs_N: number of each record's pair; -1 for none.
      levels_N: difficulty level of each record; records of a pair at two levels are no unit.
      lengths_N: tokens of each record.
      capacity: tokens of a row.

    Returns:
      The unit of each record, counted from 0 in the order of their first records.
    """
    lengths_N = np.asarray(lengths_N)
    members: dict[tuple[int, int], list[int]] = {}
    for record in np.flatnonzero(pairs_N >= 0).tolist():
        members.setdefault((int(pairs_N[record]), int(levels_N[record])), []).append(record)
    first_N = np.arange(len(pairs_N))
    for records in members.values():
        if lengths_N[records].sum() <= capacity:
            first_N[records] = records[0]
    return np.unique(first_N, return_inverse=True)[1]


class PackPlan:
    """Plans the records of every step: a pure function of lengths, seed and step.

    Every epoch packs all records anew, shuffled by (seed, epoch), and distributes its rows evenly
    over its steps, so that no step is much smaller than the others. With mixtures, an epoch packs
    the records that the mixture of its first step draws for it, and ends where another one begins.

    Args:
      lengths_N: tokens of each record, at most `sequence_length`.
      global_batch_rows: rows of the global batch.
      sequence_length: tokens of a row.
      seed: seed of the shuffles.
      mixtures: first step → what is drawn from it on, the first of them from step 0; without any,
        an epoch holds every record once.
      units_N: the unit of each record, counted from 0 (`pair_units`); records of a unit share a
        row, and mixtures draw units. Without it each record is one.
    """

    def __init__(
        self,
        lengths_N: np.ndarray,
        global_batch_rows: int,
        sequence_length: int,
        seed: int,
        mixtures: Mapping[int, Mixture] | None = None,
        units_N: np.ndarray | None = None,
    ):
        self.mixtures = dict(sorted((mixtures or {}).items()))
        self.lengths_N = np.asarray(lengths_N, np.int64)
        self._unit_lengths, self._unit_records = self.lengths_N, None
        if units_N is not None:
            # Sums of integers below 2**53 are exact.
            self._unit_lengths = np.bincount(units_N, self.lengths_N).astype(np.int64)
            self._unit_records = [[] for _ in self._unit_lengths]
            for record, unit in enumerate(units_N.tolist()):
                self._unit_records[unit].append(record)
        self.global_batch_rows = global_batch_rows
        self.sequence_length = sequence_length
        self.seed = seed
        digest = hashlib.sha256(self.lengths_N.tobytes())
        digest.update(f'{global_batch_rows} {sequence_length} {seed}'.encode())
        for step, mixture in self.mixtures.items():
            begin = f' from {step}' if step else ''
            digest.update(f'{begin} {mixture.sizes} {mixture.weights}'.encode())
            if mixture.records_N is not None:
                digest.update(mixture.records_N.astype(np.int64).tobytes())
        if units_N is not None:
            digest.update(np.asarray(units_N, np.int64).tobytes())
        self.hash = digest.hexdigest()
        self._epoch = functools.lru_cache(maxsize=2)(self._pack_epoch)
        # Loader threads ask for steps concurrently.
        self._lock = threading.Lock()
        # First step of each epoch of the mixtures, as far as they are known.
        self._epoch_starts = [0]

    def _pack_rows(self, mixture: Mixture | None, epoch: int) -> list[list[int]]:
        """Returns the rows of an epoch, each a list of record indices."""
        rng = np.random.default_rng((self.seed, epoch))
        lengths = self._unit_lengths
        if mixture:
            drawn = mixture.epoch(self.seed, epoch)
            lengths = lengths[drawn]
        rows = pack(lengths, self.sequence_length, rng.permutation(len(lengths)))
        rows = [rows[i] for i in rng.permutation(len(rows))]
        if mixture:
            rows = [drawn[row].tolist() for row in rows]
        if self._unit_records is None:
            return rows
        return [[record for unit in row for record in self._unit_records[unit]] for row in rows]

    def _pack_epoch(self, epoch: int) -> list[list[list[int]]]:
        """Returns the steps of an epoch, each a list of rows of record indices."""
        mixture = None
        if self.mixtures:
            first_step = self._first_step(epoch)
            mixture = self.mixtures[max(step for step in self.mixtures if step <= first_step)]
        rows = self._pack_rows(mixture, epoch)
        steps = -(-len(rows) // self.global_batch_rows)
        bounds = np.linspace(0, len(rows), steps + 1).round().astype(int)
        return [rows[start:stop] for start, stop in itertools.pairwise(bounds)]

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Returns the number of steps of the first epoch.

        Without mixtures all epochs have as many: ties of length change which records share a row,
        but not the number of rows.
        """
        return len(self._epoch(0))

    @property
    def rows_per_epoch(self) -> int:
        """Returns the number of rows of the first epoch."""
        return sum(map(len, self._epoch(0)))

    @property
    def min_rows_per_epoch(self) -> int:
        """Returns the number of rows of an epoch, of the mixture that fills the fewest."""
        later = [
            len(self._pack_rows(mixture, 0)) for step, mixture in self.mixtures.items() if step
        ]
        return min([self.rows_per_epoch, *later])

    def _first_step(self, epoch: int) -> int:
        """Returns the first step of an epoch of the mixtures.

        These epochs differ in steps, so they are counted from the first one on.
        """
        while len(self._epoch_starts) <= epoch:
            start = self._epoch_starts[-1]
            end = start + len(self._epoch(len(self._epoch_starts) - 1))
            later = [step for step in self.mixtures if start < step < end]
            self._epoch_starts.append(min(later, default=end))
        return self._epoch_starts[epoch]

    def _locate(self, step: int) -> tuple[int, int]:
        """Returns the epoch of a step, and the step's index in it."""
        if not self.mixtures:
            return divmod(step, self.steps_per_epoch)
        while self._epoch_starts[-1] <= step:
            self._first_step(len(self._epoch_starts))
        epoch = bisect.bisect_right(self._epoch_starts, step) - 1
        return epoch, step - self._epoch_starts[epoch]

    def rows(self, step: int) -> list[list[int]]:
        """Returns the rows of one step, counted from 0: at most `global_batch_rows`.

        Each row is a list of record indices.
        """
        with self._lock:
            epoch, index = self._locate(step)
            return self._epoch(epoch)[index]

    def max_records_per_step(self, steps: int) -> int:
        """Returns the largest number of records in one of the first `steps` steps."""
        return max(sum(map(len, self.rows(step))) for step in range(steps))

    @property
    def max_records_per_row(self) -> int:
        """Returns an upper bound of the records in a row: all as short as the shortest."""
        return self.sequence_length // int(self.lengths_N.min())

    @property
    def fill(self) -> float:
        """Returns the share of the first epoch's row tokens that belong to records."""
        return self._epoch_tokens / (self.rows_per_epoch * self.sequence_length)

    @property
    def _epoch_tokens(self) -> int:
        """Returns the number of tokens of the first epoch."""
        units = self.mixtures[0].epoch(self.seed, 0) if self.mixtures else slice(None)
        return int(self._unit_lengths[units].sum())

    def describe(self) -> str:
        """Returns a line for the log."""
        # Epochs of several mixtures differ, and none of them need hold every record.
        first = 'in the first epoch ' if len(self.mixtures) > 1 else ''
        epoch = '' if first else ' an epoch'
        return (
            f'{len(self.lengths_N):,} records, {first}{self._epoch_tokens:,} tokens, '
            f'{self.steps_per_epoch} steps{epoch}, rows {self.fill:.1%} full'
        )

    def describe_run(self, steps: int) -> str:
        """Returns a line for the log that gives the length of a run.

        It is in epochs like the first, or in stages where another mixture begins on the way.
        """
        if (stages := sum(step < steps for step in self.mixtures)) > 1:
            return f'{steps:,} steps in {stages} stages'
        return f'{steps:,} steps = {steps / self.steps_per_epoch:,.1f} epochs'
