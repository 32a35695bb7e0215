"""Tests the composition of overrides: order, names, what is collapsed and what is refused."""

import pytest

from bsft_jax.errors import UserError
from bsft_jax.studies import grid
from bsft_jax.studies.study import Arm

RATES = grid.sweep('optimizer.learning_rate', (1e-3, 2e-3))
SEEDS = grid.sweep('seed', (0, 1))


def test_a_product_varies_its_last_axis_fastest():
    items = grid.product(RATES, SEEDS)
    assert [item.name for item in items] == [
        'learning_rate=0.001,seed=0',
        'learning_rate=0.001,seed=1',
        'learning_rate=0.002,seed=0',
        'learning_rate=0.002,seed=1',
    ]
    assert items[1].overrides == {'optimizer.learning_rate': 1e-3, 'seed': 1}


def test_zip_pairs_and_chain_appends():
    assert [item.overrides for item in grid.zip_(RATES, SEEDS)] == [
        {'optimizer.learning_rate': 1e-3, 'seed': 0},
        {'optimizer.learning_rate': 2e-3, 'seed': 1},
    ]
    named = Arm('plain', {'arm': 'general_sft'})
    assert grid.chain([named], SEEDS) == [named, *SEEDS]


def test_equal_overrides_are_one_item():
    assert grid.chain(SEEDS, [{'seed': 1}, {'seed': 2}]) == grid.sweep('seed', (0, 1, 2))
    assert grid.sweep('seed', (0, 0)) == SEEDS[:1]


def test_a_sample_is_drawn_once_and_keeps_the_order():
    seeds = grid.sweep('seed', range(50))
    drawn = grid.sample(seeds, 10, seed=3)
    assert drawn == grid.sample(seeds, 10, seed=3) != grid.sample(seeds, 10, seed=4)
    places = [seeds.index(item) for item in drawn]
    assert places == sorted(set(places)) and len(places) == 10


def test_names_are_those_of_folders_and_stay_apart():
    sources = grid.sweep('data.source', ('jsonl:a/b', 'jsonl:a b', 'jsonl:a?b'))
    names = [item.name for item in sources]
    assert len(set(names)) == 3 and not any(set(name) & set('/? ') for name in names)


@pytest.mark.parametrize(
    'compose, message',
    [
        (lambda: grid.product(RATES, RATES), 'two axes change optimizer.learning_rate'),
        (lambda: grid.zip_(RATES, SEEDS[:1]), r'axes of \[2, 1\] items cannot be zipped'),
        (lambda: grid.sample(SEEDS, 3), 'cannot draw 3 of 2 items'),
        (lambda: grid.chain([Arm('a', {'seed': 0}), Arm('a', {'seed': 1})]), 'two different'),
        (lambda: grid.chain([Arm('a/b', {'seed': 0})]), 'name in a grid'),
    ],
)
def test_what_cannot_be_composed_is_refused(compose, message):
    with pytest.raises(UserError, match=message):
        compose()
