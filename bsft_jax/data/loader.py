"""The loader: the batch of any step, and Grain to make batches ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bsft_jax.data.batch import Batch
from bsft_jax.data.examples import ExampleStore
from bsft_jax.data.packing import PackPlan

_THREADS = 2
_AHEAD = 8


class StepSource:
    """Step → this process's rows of the global batch; a pure function of the step.

    Args:
      store: the examples.
      plan: which of them share which row.
      packed: False gives every record of a step a row of its own, in as many rows as the fullest
        step needs.
      row_multiple: the number of rows is a multiple of this.
      held: number of rows → those that this process makes, ascending; all of them by default.
      steps: how many steps are looked at to find the fullest one (only when not packed).
    """

    def __init__(
        self,
        store: ExampleStore,
        plan: PackPlan,
        *,
        packed: bool = True,
        row_multiple: int = 1,
        held: Callable[[int], Sequence[int]] = range,
        steps: int = 1,
    ):
        self.plan, self._store, self._packed = plan, store, packed
        self._examples_hash = store.hash
        wanted = plan.rows_per_step if packed else plan.most_records(steps)
        self.rows = -(-wanted // row_multiple) * row_multiple
        self.held = list(held(self.rows))

    def state(self, step: int) -> dict[str, int | str]:
        """The data item of a checkpoint: where the run is, in which plan of which examples."""
        return {'step': step, 'plan_hash': self.plan.hash, 'examples_hash': self._examples_hash}

    def __getitem__(self, step: int) -> Batch:
        rows = self.plan.rows(step)
        if not self._packed:
            rows = [[item] for row in rows for item in row]
        rows = [rows[number] if number < len(rows) else [] for number in self.held]
        shape = (len(rows), self.plan.sequence_length)
        tokens, targets, segments, positions = np.zeros((4, *shape), np.int32)
        weights = np.zeros(shape, np.float32)
        for b, row in enumerate(rows):
            start = 0
            for number, item in enumerate(row, start=1):
                example = self._store[item]
                end = start + len(example.ids)
                tokens[b, start:end] = example.ids
                targets[b, start : end - 1] = example.ids[1:]
                weights[b, start : end - 1] = example.weights[1:]
                segments[b, start:end] = number
                positions[b, start:end] = np.arange(len(example.ids))
                start = end
        return Batch(tokens, targets, weights, segments, positions)


class _Steps:
    """Steps `start` to `stop` of a source, as a random-access data set."""

    def __init__(self, source: StepSource, start: int, stop: int):
        self._source, self._start, self._stop = source, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> Batch:
        return self._source[self._start + index]


def iterate(source: StepSource, start: int, stop: int) -> Iterator[Batch]:
    """Batches of steps `start` to `stop` (exclusive), made ahead by Grain's threads, in order."""
    import grain

    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    return iter(grain.MapDataset.source(_Steps(source, start, stop)).to_iter_dataset(options))
