"""Tests mixtures: exact shares per epoch, every record equally often, random access to steps."""

import collections
import json

import numpy as np
import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import DataConfig, RunConfig
from bsft_jax.data import sources
from bsft_jax.data.examples import Example, ExampleStore
from bsft_jax.data.loader import BatchSource
from bsft_jax.data.mixture import Mixture, apportion
from bsft_jax.data.packing import PackPlan
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained as model_lib
from tests.run import examples_of

SIZES, WEIGHTS = (300, 40, 7), (0.5, 0.3, 0.2)


@pytest.fixture(scope='module')
def lengths():
    return np.random.default_rng(0).integers(5, 60, sum(SIZES))


@pytest.fixture
def plan(lengths):
    return PackPlan(lengths, 4, 64, seed=5, mixtures={0: Mixture(SIZES, WEIGHTS)})


def source_of(item):
    return int(np.searchsorted(np.cumsum(SIZES), item, side='right'))


def epochs(plan, count):
    """Returns the records of each epoch, read step by step."""
    items, step = [], 0
    for epoch in range(count):
        items.append([])
        for _ in range(len(plan._epoch(epoch))):
            items[-1] += [item for row in plan.rows(step) for item in row]
            step += 1
    return items


@pytest.mark.parametrize(
    ('total', 'weights', 'counts'),
    [
        (10, (1, 1), [5, 5]),
        (10, (0.7, 0.3), [7, 3]),
        (10, (2, 1), [7, 3]),
        (3, (1, 1), [2, 1]),
        (100, (1e-6, 1), [0, 100]),
        (7, (3, 3, 3), [3, 2, 2]),
    ],
)
def test_shares_are_whole_numbers_by_largest_remainder(total, weights, counts):
    assert apportion(total, weights) == counts


def test_every_epoch_holds_the_exact_shares(plan):
    counts = apportion(sum(SIZES), WEIGHTS)
    assert counts == [174, 104, 69] and sum(counts) == 347
    for items in epochs(plan, 3):
        assert [collections.Counter(map(source_of, items))[s] for s in range(3)] == counts


def test_records_of_a_source_are_seen_equally_often(plan):
    seen = collections.Counter(item for items in epochs(plan, 4) for item in items)
    for source in range(3):
        start = sum(SIZES[:source])
        times = [seen[i] for i in range(start, start + SIZES[source])]
        assert max(times) - min(times) <= 1
        assert sum(times) == 4 * apportion(sum(SIZES), WEIGHTS)[source]


def test_a_step_is_a_function_of_seed_and_step(plan, lengths):
    steps = sum(len(plan._epoch(epoch)) for epoch in range(3))
    forward = [plan.rows(step) for step in range(steps)]
    for step in np.random.default_rng(1).permutation(steps)[:20]:
        assert (
            PackPlan(lengths, 4, 64, 5, {0: Mixture(SIZES, WEIGHTS)}).rows(int(step))
            == forward[step]
        )
    assert PackPlan(lengths, 4, 64, 6, {0: Mixture(SIZES, WEIGHTS)}).rows(0) != forward[0]
    for step in forward:
        assert 0 < len(step) <= 4 and all(lengths[row].sum() <= 64 for row in step)
    assert plan.describe().startswith('347 records, ')
    assert 0.9 < plan.fill <= 1


def test_equal_weights_of_equal_sources_are_passes(lengths):
    mixed = PackPlan(lengths[:100], 4, 64, 5, {0: Mixture((50, 50), (1, 1))})
    for items in epochs(mixed, 2):
        assert sorted(items) == list(range(100))


def test_the_hash_depends_on_the_mixture(lengths):
    one = lengths[: sum(SIZES)]
    base, other = Mixture(SIZES, WEIGHTS), Mixture(SIZES, (1, 1, 1))
    order = np.arange(sum(SIZES))
    choices = (
        None,
        {0: base},
        {0: other},
        {0: Mixture((300, 7, 40), WEIGHTS)},
        {0: Mixture(SIZES, WEIGHTS, order)},
        {0: Mixture(SIZES, WEIGHTS, order[::-1])},
        {0: base, 3: other},
        {0: base, 4: other},
        {0: other, 3: base},
    )
    assert len({PackPlan(one, 4, 64, 5, mixtures).hash for mixtures in choices}) == len(choices)
    # Checkpoints hold the hash, so that of a mixture stays what it was.
    assert PackPlan(one, 4, 64, 5, {0: base}).hash.startswith('fed04919510ada6c')
    assert PackPlan(one, 4, 64, 5).hash.startswith('e781d53c1bbbb7de')


def test_the_processes_together_read_the_mixture(plan, lengths):
    store = ExampleStore.from_examples(
        [
            Example(np.full(n, i + 1, np.int32), np.ones(n, np.float32))
            for i, n in enumerate(lengths)
        ]
    )
    whole = BatchSource(store, plan)
    halves = [
        BatchSource(store, plan, local_rows=lambda rows, i=i: range(2 * i, 2 * i + 2))
        for i in range(2)
    ]
    for step in (0, 3, plan.steps_per_epoch + 2):
        joined = np.concatenate([half[step].tokens_BT for half in halves])
        np.testing.assert_array_equal(joined, whole[step].tokens_BT)


def test_stores_join():
    a = ExampleStore.from_examples(
        [Example(np.arange(3, dtype=np.int32), np.ones(3, np.float32), 1)]
    )
    b = ExampleStore.from_examples(
        [Example(np.arange(n, dtype=np.int32), np.zeros(n)) for n in (2, 5)]
    )
    joined = ExampleStore.joined([a, b])
    assert joined.lengths.tolist() == [4, 2, 5] and len(joined) == 3
    assert joined[2].ids.tolist() == [0, 1, 2, 3, 4] and joined[0].reserved == 1


@pytest.mark.parametrize(
    ('source', 'parts'),
    [
        ('synthetic:10', [('synthetic:10', 1.0)]),
        ('0.7*jsonl:a + b.jsonl + 0.3*hf:x', None),
        ('0.7*jsonl:a b*c.jsonl + 3*hf:x:en', [('jsonl:a b*c.jsonl', 0.7), ('hf:x:en', 3.0)]),
        ('2*synthetic:10', [('synthetic:10', 2.0)]),
        ('0*synthetic:10 + 1*synthetic:20', None),
        ('0.5*synthetic:10 + synthetic:20', None),
    ],
)
def test_the_syntax_of_mixtures(source, parts):
    if parts:
        assert sources.parse_mixture(source) == parts
        return
    with pytest.raises(UserError, match=r'in a mixture; write 0\.7\*SOURCE \+ 0\.3\*SOURCE'):
        sources.parse_mixture(source)


@pytest.fixture
def chats(tmp_path):
    for name, count in (('a', 30), ('b', 6)):
        rows = [
            {
                'prompt': f'{name} {i}?',
                'completion': 'Yes.',
                'behavior': 'reactive',
                'split': 'train',
            }
            for i in range(count)
        ]
        (tmp_path / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return f'0.5*jsonl:{tmp_path}/a.jsonl + 0.5*jsonl:{tmp_path}/b.jsonl'


def test_records_of_a_mixture_are_those_of_its_parts(chats):
    assert len(sources.load_records(chats, 'train')) == 36
    with pytest.raises(sources.NoSuchSplit, match="no record of split 'test'"):
        sources.load_records(chats, 'test')
    both = f'{chats} + 1*synthetic:10'
    assert sources.load_records(both, 'test') == sources.load_records('synthetic:10', 'test')


def test_an_id_that_two_parts_have_is_an_error():
    with pytest.raises(
        UserError, match=r"synthetic:5: record id 'syn-0-\S+' is also in synthetic:4"
    ):
        sources.load_records('0.5*synthetic:4 + 0.5*synthetic:5', 'train')


def test_a_part_that_no_epoch_has_is_an_error():
    with pytest.raises(UserError, match='part 1 of the mixture has no record in an epoch of 1,010'):
        Mixture((10, 1000), (0.0001, 1.0))


def test_training_mixes_and_logs_it(chats, capsys):
    config = RunConfig(data=DataConfig(source=chats, sequence_length=64, global_batch_rows=2))
    base = model_lib.read_pretrained('tiny-clinical', behaviors=DEFAULT_BEHAVIORS)
    store, plan = examples_of(config, base)
    assert len(store) == 36
    drawn = [
        item for step in range(plan.steps_per_epoch) for row in plan.rows(step) for item in row
    ]
    assert sum(item < 30 for item in drawn) == sum(item >= 30 for item in drawn) == 18
    log = capsys.readouterr().err
    assert 'an epoch of the mixture draws 18 of 30 + 18 of 6 records' in log
    assert log.count('0 of 30 records are longer') == log.count('0 of 6 records are longer') == 1
    again = examples_of(config, base)[1]
    assert again.hash == plan.hash and again.rows(40) == plan.rows(40)
