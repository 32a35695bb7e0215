"""Tests batches: right by hand, and the same however a run is split or resumed."""

import itertools

import numpy as np
import pytest

from bsft_jax.data.examples import Example, ExampleStore
from bsft_jax.data.loader import BatchSource, iterate
from bsft_jax.data.packing import PackPlan

CAPACITY = 64
ROWS = 4


def example(first, weights):
    ids = np.arange(first, first + len(weights), dtype=np.int32)
    return Example(ids, np.asarray(weights, np.float32))


class ListedPlan:
    """Plans rows as given."""

    def __init__(self, steps, global_batch_rows, sequence_length):
        self.steps, self.global_batch_rows, self.sequence_length = (
            steps,
            global_batch_rows,
            sequence_length,
        )

    def rows(self, step):
        return self.steps[step]

    def max_records_per_step(self, steps):
        return max(sum(map(len, self.rows(step))) for step in range(steps))


@pytest.fixture(scope='module')
def store():
    """Returns a store whose record i has the ids 1000 i + 1, 1000 i + 2, …"""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 40, 200)
    return ExampleStore.from_examples(
        [example(1000 * i + 1, rng.choice([0, 0, 1, 2.5], n)) for i, n in enumerate(lengths)]
    )


@pytest.fixture(scope='module')
def plan(store):
    return PackPlan(store.lengths, ROWS, CAPACITY, seed=1)


def assert_same(batch, other):
    for name, a, b in zip(batch._fields, batch, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
        assert a.dtype == b.dtype


def test_a_batch_by_hand():
    store = ExampleStore.from_examples(
        [example(10, [0, 0, 3, 1]), example(20, [0, 1]), example(30, [1, 1, 1])]
    )
    batch = BatchSource(store, ListedPlan([[[0, 1], [2]]], 2, 8))[0]
    np.testing.assert_array_equal(
        batch.tokens_BT, [[10, 11, 12, 13, 20, 21, 0, 0], [30, 31, 32, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        batch.targets_BT, [[11, 12, 13, 0, 21, 0, 0, 0], [31, 32, 0, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        batch.weights_BT, [[0, 3, 1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        batch.segment_ids_BT, [[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        batch.positions_BT, [[0, 1, 2, 3, 0, 1, 0, 0], [0, 1, 2, 0, 0, 0, 0, 0]]
    )
    assert [a.dtype for a in batch] == [np.int32, np.int32, np.float32, np.int32, np.int32]


def test_the_same_batch_unpacked():
    store = ExampleStore.from_examples(
        [example(10, [0, 0, 3, 1]), example(20, [0, 1]), example(30, [1, 1, 1])]
    )
    source = BatchSource(store, ListedPlan([[[0, 1], [2]]], 2, 8), packed=False, row_multiple=2)
    assert source.rows == 4
    np.testing.assert_array_equal(
        source[0].tokens_BT[:, :4], [[10, 11, 12, 13], [20, 21, 0, 0], [30, 31, 32, 0], [0] * 4]
    )
    np.testing.assert_array_equal(source[0].segment_ids_BT.sum(1), [4, 2, 3, 0])


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('count', [1, 2, 4])
def test_the_rows_of_all_processes_are_the_global_batch(store, plan, packed, count):
    options = dict(packed=packed, row_multiple=4, steps=plan.steps_per_epoch)
    whole = BatchSource(store, plan, **options)
    share = whole.rows // count
    sources = [
        BatchSource(
            store, plan, local_rows=lambda rows, i=i: range(i * share, (i + 1) * share), **options
        )
        for i in range(count)
    ]
    for step in range(plan.steps_per_epoch + 2):
        batches = [source[step] for source in sources]
        assert {len(batch.tokens_BT) for batch in batches} == {whole.rows // count}
        joined = type(batches[0])(
            *(np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        )
        assert_same(joined, whole[step])


def test_an_epoch_holds_every_record_whole_and_once(store, plan):
    source, seen = BatchSource(store, plan), []
    for step in range(plan.steps_per_epoch):
        batch = source[step]
        for tokens, weights, segments in zip(
            batch.tokens_BT, batch.weights_BT, batch.segment_ids_BT, strict=True
        ):
            for number in range(1, segments.max() + 1):
                mask = segments == number
                record = int(tokens[mask][0]) // 1000
                seen.append(record)
                np.testing.assert_array_equal(tokens[mask], store[record].ids)
                np.testing.assert_array_equal(weights[mask][:-1], store[record].weights[1:])
    assert sorted(seen) == list(range(len(store)))


def test_packed_or_not_a_step_holds_the_same_records_and_weight(store, plan):
    steps = 2 * plan.steps_per_epoch
    packed = BatchSource(store, plan)
    unpacked = BatchSource(store, plan, packed=False, row_multiple=8, steps=steps)
    assert unpacked.rows % 8 == 0
    for step in range(steps):
        a, b = packed[step], unpacked[step]
        assert len(b.tokens_BT) == unpacked.rows
        assert b.segment_ids_BT.max() == 1
        np.testing.assert_array_equal(
            np.sort(a.tokens_BT[a.tokens_BT > 0]), np.sort(b.tokens_BT[b.tokens_BT > 0])
        )
        assert a.weights_BT.sum() == b.weights_BT.sum() > 0


@pytest.mark.parametrize('start', [0, 1, 6])
def test_a_run_continues_where_another_stopped(store, plan, start):
    stop = plan.steps_per_epoch + 5
    batches = list(iterate(BatchSource(store, plan), start, stop))
    assert len(batches) == stop - start
    fresh = BatchSource(store, PackPlan(store.lengths, ROWS, CAPACITY, seed=1))
    for step, batch in enumerate(batches, start=start):
        assert_same(batch, fresh[step])


def test_nothing_is_left_at_the_end(store, plan):
    assert list(iterate(BatchSource(store, plan), 3, 3)) == []


def test_batches_come_before_all_are_made(store, plan):
    source = BatchSource(store, plan)
    first = list(itertools.islice(iterate(source, 2, 10**6), 3))
    for step, batch in enumerate(first, start=2):
        assert_same(batch, source[step])
