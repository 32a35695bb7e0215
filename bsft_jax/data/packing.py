"""PackPlan: which records share which row, for every step of a run."""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import threading

import numpy as np

from bsft_jax.data.mixture import Mixture


def pack(lengths_N: np.ndarray, capacity: int, order_N: np.ndarray | None = None) -> list[list[int]]:
    """Best-fit decreasing: longest first, each into the fullest row that still has room.

    Args:
      lengths_N: tokens of each item, 1 to `capacity`.
      capacity: tokens of a row.
      order_N: a permutation that breaks ties of length; default the given order.

    Returns:
      Rows of item indices. Takes O(N log capacity) beside the sort.

    Raises ValueError for an item that is longer than a row.
    """
    lengths_N = np.asarray(lengths_N)
    if lengths_N.max(initial=0) > capacity:
        raise ValueError(f'an item of {lengths_N.max()} tokens is longer than a row of {capacity}')
    order_N = np.arange(len(lengths_N)) if order_N is None else order_N
    order_N = order_N[np.argsort(-lengths_N[order_N], kind='stable')]
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # room left → rows with exactly that room
    rooms: list[int] = []  # the keys of open_rows, ascending
    for item, length in zip(order_N.tolist(), lengths_N[order_N].tolist(), strict=True):
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        rows[row].append(item)
        if left := room - length:
            if left not in open_rows:
                open_rows[left] = []
                bisect.insort(rooms, left)
            open_rows[left].append(row)
    return rows


class PackPlan:
    """The records of every step: a pure function of lengths, seed and step.

    Every epoch packs all records anew, shuffled by (seed, epoch), and spreads its rows evenly over
    its steps, so that no step is much smaller than the others. With a mixture an epoch packs the
    records that the mixture draws for it.

    Args:
      lengths_N: tokens of each record, at most `sequence_length`.
      rows_per_step: rows of the global batch.
      sequence_length: tokens of a row.
      seed: of the shuffles.
      mixture: of sources whose records stand one behind the other in `lengths_N`.
    """

    def __init__(
        self,
        lengths_N: np.ndarray,
        rows_per_step: int,
        sequence_length: int,
        seed: int,
        mixture: Mixture | None = None,
    ):
        self.mixture = mixture
        self.lengths_N = np.asarray(lengths_N, np.int64)
        self.rows_per_step, self.sequence_length, self.seed = rows_per_step, sequence_length, seed
        digest = hashlib.sha256(self.lengths_N.tobytes())
        digest.update(f'{rows_per_step} {sequence_length} {seed}'.encode())
        if mixture:
            digest.update(f' {mixture.sizes} {mixture.weights}'.encode())
        self.hash = digest.hexdigest()
        self._epoch = functools.lru_cache(maxsize=2)(self._pack_epoch)
        self._lock = threading.Lock()
        self._ends = [0]

    def _pack_epoch(self, epoch: int) -> list[list[list[int]]]:
        rng = np.random.default_rng((self.seed, epoch))
        lengths_N = self.lengths_N
        if self.mixture:
            items_N = self.mixture.epoch(self.seed, epoch)
            lengths_N = lengths_N[items_N]
        rows = pack(lengths_N, self.sequence_length, rng.permutation(len(lengths_N)))
        rows = [rows[i] for i in rng.permutation(len(rows))]
        if self.mixture:
            rows = [items_N[row].tolist() for row in rows]
        steps = -(-len(rows) // self.rows_per_step)
        bounds = np.linspace(0, len(rows), steps + 1).round().astype(int)
        return [rows[a:b] for a, b in itertools.pairwise(bounds)]

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Of the first epoch. Without a mixture all have as many: ties of length change which records
        share a row, not how many rows there are."""
        return len(self._epoch(0))

    def _place(self, step: int) -> tuple[int, int]:
        """Epoch of a step and the step within it; epochs of a mixture are counted from the first on."""
        if not self.mixture:
            return divmod(step, self.steps_per_epoch)
        while self._ends[-1] <= step:
            self._ends.append(self._ends[-1] + len(self._epoch(len(self._ends) - 1)))
        epoch = bisect.bisect_right(self._ends, step) - 1
        return epoch, step - self._ends[epoch]

    def rows(self, step: int) -> list[list[int]]:
        """At most `rows_per_step` rows of record indices for one step, counted from 0."""
        with self._lock:
            epoch, step = self._place(step)
            return self._epoch(epoch)[step]

    def most_records(self, steps: int) -> int:
        """The largest number of records in one of the first `steps` steps."""
        return max(sum(map(len, self.rows(step))) for step in range(steps))

    @property
    def most_in_row(self) -> int:
        """No row of any epoch has more records: so many of the shortest fit."""
        return self.sequence_length // int(self.lengths_N.min())

    @property
    def fill(self) -> float:
        """Share of the first epoch's row tokens that are records."""
        rows = [row for step in self._epoch(0) for row in step]
        return self._tokens / (len(rows) * self.sequence_length)

    @property
    def _tokens(self) -> int:
        """Tokens of the first epoch."""
        drawn = self.mixture.epoch(self.seed, 0) if self.mixture else slice(None)
        return int(self.lengths_N[drawn].sum())

    def describe(self) -> str:
        """One line for the log."""
        return (
            f'{len(self.lengths_N):,} records, {self._tokens:,} tokens, {self.steps_per_epoch} steps '
            f'an epoch, rows {self.fill:.1%} full'
        )

    def describe_run(self, steps: int) -> str:
        """One line for the log: how long a run of `steps` is, by its first epoch."""
        return f'{steps:,} steps = {steps / self.steps_per_epoch:,.1f} epochs'
