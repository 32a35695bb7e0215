"""The loader: makes the batch of any step, ahead of time, and puts it on the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from bsft_jax.data.examples import Batch, ExampleStore
from bsft_jax.data.packing import PackPlan
from bsft_jax.parallel import sharding

_NUM_THREADS = 2
_PREFETCHED_BATCHES = 8


class BatchSource:
    """Maps a step to this process's rows of the global batch; a pure function of the step.

    Args:
      store: the examples.
      plan: which of them share which row.
      packed: False gives every record of a step a row of its own, in as many rows as the fullest
        step needs.
      row_multiple: the number of rows is a multiple of this.
      local_rows: maps the number of rows of the global batch to the indices of this process's
        rows, ascending; default all of them.
      steps: how many steps are searched for the fullest one (only when not packed).

    Attributes:
      rows: number of rows of the global batch.
      local_rows: indices of this process's rows.
    """

    def __init__(
        self,
        store: ExampleStore,
        plan: PackPlan,
        *,
        packed: bool = True,
        row_multiple: int = 1,
        local_rows: Callable[[int], Sequence[int]] = range,
        steps: int = 1,
    ):
        self.plan, self._store, self._packed = plan, store, packed
        self._examples_hash = store.hash
        num_rows = plan.global_batch_rows if packed else plan.max_records_per_step(steps)
        self.rows = -(-num_rows // row_multiple) * row_multiple
        self.local_rows = list(local_rows(self.rows))

    def state(self, step: int) -> dict[str, int | str]:
        """Returns the data item of a checkpoint: the step, and hashes of the plan and examples."""
        return {'step': step, 'plan_hash': self.plan.hash, 'examples_hash': self._examples_hash}

    def __getitem__(self, step: int) -> Batch:
        rows = self.plan.rows(step)
        if not self._packed:
            rows = [[record] for row in rows for record in row]
        # Rows beyond the step's own are empty.
        rows = [rows[index] if index < len(rows) else [] for index in self.local_rows]
        shape = (len(rows), self.plan.sequence_length)
        tokens, targets, segments, positions = np.zeros((4, *shape), np.int32)
        weights = np.zeros(shape, np.float32)
        for b, row in enumerate(rows):
            start = 0
            for segment, record in enumerate(row, start=1):
                example = self._store[record]
                end = start + len(example.ids)
                tokens[b, start:end] = example.ids
                targets[b, start : end - 1] = example.ids[1:]
                weights[b, start : end - 1] = example.weights[1:]
                segments[b, start:end] = segment
                positions[b, start:end] = np.arange(len(example.ids))
                start = end
        return Batch(tokens, targets, weights, segments, positions)


class _StepRange:
    """Presents steps `start` to `stop` of a source as a random-access data set."""

    def __init__(self, source: BatchSource, start: int, stop: int):
        self._source, self._start, self._stop = source, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> Batch:
        return self._source[self._start + index]


def iterate(source: BatchSource, start: int, stop: int) -> Iterator[Batch]:
    """Iterates over the batches of steps `start` to `stop` (exclusive), in order.

    Grain's threads make them ahead of time.
    """
    import grain

    options = grain.ReadOptions(num_threads=_NUM_THREADS, prefetch_buffer_size=_PREFETCHED_BATCHES)
    dataset = grain.MapDataset.source(_StepRange(source, start, stop))
    return iter(dataset.to_iter_dataset(options))


def to_device(batch: Batch, mesh: Mesh, local_rows: Sequence[int] = (), rows: int = 0) -> Batch:
    """Returns a batch as global arrays: rows over `data` and `fsdp`, tokens over `context`.

    Args:
      batch: the whole batch, or this process's rows of it.
      mesh: where it goes.
      local_rows: numbers of those rows in the whole batch, ascending; empty for all of them.
      rows: rows of the whole batch; 0 for those of `batch`.
    """
    rows = rows or len(batch.tokens_BT)
    batch_sharding = sharding.batch_sharding(mesh)
    local_index = {row: index for index, row in enumerate(local_rows or range(rows))}

    def to_global(x: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            first = local_index[start]
            return x[first : first + stop - start, index[1]]

        return jax.make_array_from_callback((rows, x.shape[1]), batch_sharding, shard)

    # Allowed where a guard forbids implicit transfers: this one is meant.
    with jax.transfer_guard_host_to_device('allow'):
        return Batch(*map(to_global, batch))
