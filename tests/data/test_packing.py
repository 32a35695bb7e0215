"""Tests the plan: every record once an epoch, in full rows, in whatever order steps are read."""

import concurrent.futures
import itertools

import numpy as np
import pytest

from bsft_jax.data.mixture import Mixture
from bsft_jax.data.packing import PackPlan, pack, pair_units

CAPACITY = 512
ROWS = 8


def realistic(n, seed=0):
    return np.clip(np.random.default_rng(seed).lognormal(5, 0.6, n).astype(int), 4, CAPACITY)


@pytest.fixture(scope='module')
def plan():
    return PackPlan(realistic(3000), ROWS, CAPACITY, seed=3)


def steps(plan, epoch=0):
    return [plan.rows(epoch * plan.steps_per_epoch + i) for i in range(plan.steps_per_epoch)]


def test_the_longest_go_first_each_into_the_fullest_row_with_room():
    assert pack([3, 9, 4, 6, 1, 7], 10) == [[1, 4], [5, 0], [3, 2]]
    assert pack([2, 8, 6], 10) == [[1, 0], [2]]


def test_the_order_breaks_ties_only():
    assert pack([5, 9, 5, 5], 10, np.array([3, 2, 1, 0])) == [[1], [3, 2], [0]]


@pytest.mark.parametrize('epoch', [0, 1, 7])
def test_an_epoch_holds_every_record_once(plan, epoch):
    items = [item for step in steps(plan, epoch) for row in step for item in row]
    assert sorted(items) == list(range(3000))


@pytest.mark.parametrize(
    'lengths', [realistic(2000), [CAPACITY] * 30, [1] * 2000, [CAPACITY // 2 + 1] * 31]
)
def test_no_row_exceeds_the_capacity_and_none_is_empty(lengths):
    plan = PackPlan(lengths, ROWS, CAPACITY, seed=0)
    for step in steps(plan):
        assert len(step) <= ROWS
        for row in step:
            assert 0 < sum(plan.lengths_N[item] for item in row) <= CAPACITY


def test_rows_are_full(plan):
    filled = [plan.lengths_N[row].sum() / CAPACITY for step in steps(plan) for row in step]
    assert np.mean(filled) == pytest.approx(plan.fill)
    assert plan.fill >= 0.97


def test_rows_are_spread_evenly_over_the_steps():
    for count in range(ROWS + 1, 4 * ROWS):
        sizes = [len(step) for step in steps(PackPlan([CAPACITY] * count, ROWS, CAPACITY, seed=0))]
        assert sum(sizes) == count
        assert len(sizes) == -(-count // ROWS)
        assert max(sizes) - min(sizes) <= 1


def test_epochs_have_equally_many_steps_and_differ(plan):
    first, second = steps(plan, 0), steps(plan, 1)
    assert len(plan._epoch(0)) == len(plan._epoch(1)) == len(plan._epoch(5))
    assert first != second
    together = [{frozenset(row) for step in epoch for row in step} for epoch in (first, second)]
    assert len(together[0] & together[1]) < 0.2 * len(together[0])


def test_a_step_does_not_depend_on_what_was_asked_before(plan):
    total = 4 * plan.steps_per_epoch + 3
    expected = [
        PackPlan(plan.lengths_N, ROWS, CAPACITY, seed=3).rows(total - 1),
        plan.rows(0),
        plan.rows(total),
    ]
    asked = PackPlan(plan.lengths_N, ROWS, CAPACITY, seed=3)
    order = np.random.default_rng(0).permutation(total + 1).tolist()[:60]
    answers = {step: asked.rows(step) for step in [*order, total, 0, total - 1]}
    assert [answers[total - 1], answers[0], answers[total]] == expected
    assert all(answers[step] == plan.rows(step) for step in sorted(answers))


def test_threads_see_the_same_steps(plan):
    order = np.random.default_rng(1).permutation(3 * plan.steps_per_epoch).tolist()
    asked = PackPlan(plan.lengths_N, ROWS, CAPACITY, seed=3)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = dict(zip(order, pool.map(asked.rows, order), strict=True))
    assert all(answers[step] == plan.rows(step) for step in sorted(order))


def test_units_are_pairs_of_one_level_that_fit_a_row():
    pairs = np.array([0, -1, 1, 0, 1, 2, 2, -1, 3])
    levels = np.array([1, 1, 1, 1, 1, 1, 2, 1, 1])
    lengths = np.array([5, 9, 6, 5, 5, 1, 1, 9, 4])
    # Pair 1 has 11 tokens, pair 2 two levels, and of pair 3 there is one record.
    assert pair_units(pairs, levels, lengths, 10).tolist() == [0, 1, 2, 0, 3, 4, 5, 6, 7]
    assert pair_units(pairs, levels, lengths, 11).tolist() == [0, 1, 2, 0, 2, 3, 4, 5, 6]


@pytest.mark.parametrize('weights', [None, (1, 1), (2, 1)])
def test_records_of_a_unit_share_a_row(weights):
    lengths = np.minimum(realistic(400), CAPACITY // 2)
    units = np.repeat(np.arange(200), 2)[np.random.default_rng(0).permutation(400)]
    units = np.unique(units, return_inverse=True)[1]
    mixtures = {0: Mixture((120, 80), weights)} if weights else None
    plan = PackPlan(lengths, ROWS, CAPACITY, 0, mixtures, units)
    rows = [row for step in steps(plan) for row in step]
    assert all(lengths[row].sum() <= CAPACITY for row in rows)
    # A mixture may draw a unit twice.
    assert all(not (np.bincount(units[row]) % 2).any() for row in rows)
    drawn = np.bincount(units[[record for row in rows for record in row]], minlength=200)
    assert drawn.sum() == 400
    # An epoch holds as many units as there are, in shares of the weights.
    share = weights[0] / sum(weights) if weights else 0.6
    assert drawn[:120].sum() == 2 * round(200 * share)
    assert plan.fill == pytest.approx(
        sum(lengths[row].sum() for row in rows) / len(rows) / CAPACITY
    )
    assert plan.hash != PackPlan(lengths, ROWS, CAPACITY, 0, mixtures).hash


def test_the_hash_depends_on_every_input():
    base = dict(lengths_N=realistic(50), global_batch_rows=ROWS, sequence_length=CAPACITY, seed=3)
    changes = (
        {},
        {'lengths_N': realistic(50)[::-1]},
        {'global_batch_rows': 4},
        {'sequence_length': 600},
        {'seed': 4},
    )
    hashes = [PackPlan(**base | change).hash for change in changes]
    assert len(set(hashes)) == len(hashes)
    assert PackPlan(**base).hash == hashes[0]
    assert PackPlan(**base | {'lengths_N': base['lengths_N'].astype(np.int32)}).hash == hashes[0]


def test_the_fullest_step_is_found(plan):
    counts = [sum(map(len, plan.rows(step))) for step in range(2 * plan.steps_per_epoch)]
    assert plan.max_records_per_step(7) == max(counts[:7])
    assert plan.max_records_per_step(len(counts)) == max(counts)


def test_seeds_give_different_steps():
    one, other = (PackPlan(realistic(400), ROWS, CAPACITY, seed) for seed in (0, 1))
    assert steps(one) != steps(other)


def test_many_records_pack_without_a_quadratic_loop():
    plan = PackPlan(realistic(100_000), 64, CAPACITY, seed=0)
    items = itertools.chain.from_iterable(row for step in steps(plan) for row in step)
    assert np.array_equal(np.sort(np.fromiter(items, int)), np.arange(100_000))
    assert plan.describe().startswith('100,000 records, ')


def test_a_run_is_as_many_epochs_as_its_steps_say():
    plan = PackPlan(np.full(40, CAPACITY), 10, CAPACITY, seed=0)
    assert plan.describe_run(1000) == '1,000 steps = 250.0 epochs'
    assert plan.describe_run(2) == '2 steps = 0.5 epochs'


def test_an_item_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match='an item of 11 tokens is longer than a row of 10'):
        pack([3, 11], 10)
