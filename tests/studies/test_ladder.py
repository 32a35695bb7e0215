"""Tests the sizes of a ladder, exact against initialised parameters, and the points on them."""

import math

import jax
import pytest

from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.studies import ladder, sizing
from bsft_jax.studies.study import load_config, with_overrides
from bsft_jax.training import setup
from tests.conftest import ROOT

TARGETS = (6e4, 1.5e5, 8e5)


@pytest.fixture(scope='module')
def base():
    return load_config(str(ROOT / 'configs/size_ladder.py'), RunConfig)


@pytest.fixture(scope='module')
def rungs(base):
    return ladder.make_ladder(base, TARGETS, ladder.Form(head_dim=16, aspect=24.0))


def test_rungs_ascend_and_are_near_their_targets(rungs):
    sizes = [rung.size.non_embedding for rung in rungs]
    assert sizes == sorted(sizes)
    assert all(abs(math.log(n / t)) < math.log(1.25) for n, t in zip(sizes, TARGETS, strict=True))
    assert len({rung.name for rung in rungs}) == 3


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_counts_are_those_of_the_parameters(base, rungs):
    for rung in rungs[:2]:
        changed = {'model.init': 'random', 'model.shape': str(rung.shape)}
        config = with_overrides(base, changed)
        spec = setup.read_base(config)
        params = jax.eval_shape(spec.network.init, jax.random.key(0))
        assert count(params) == rung.size.params
        assert count([params['layers'], params['norm']]) == rung.size.non_embedding
        assert sizing.model_size(config) == rung.size


def test_weights_and_rates_follow_the_width(base, rungs):
    narrow, wide = rungs[0], rungs[-1]
    ratio = wide.shape.width / narrow.shape.width
    assert narrow.shape.std / wide.shape.std == pytest.approx(math.sqrt(ratio), rel=1e-3)
    points = [ladder.make_point(base, rung, 1.28e6) for rung in (narrow, wide)]
    rates = [point.overrides['optimizer.learning_rate'] for point in points]
    assert rates[0] / rates[1] == pytest.approx(ratio, rel=1e-3)


def test_the_base_size_and_horizon_keep_the_base_rate(base):
    assert ladder.transfer_rate(
        2e-3, width=128, base_width=128, tokens=1e6, base_tokens=1e6
    ) == pytest.approx(2e-3)
    longer = ladder.transfer_rate(2e-3, width=128, base_width=128, tokens=1e7, base_tokens=1e6)
    assert longer == pytest.approx(2e-3 * 10**-0.32)


def test_points_of_a_budget_have_its_compute(base, rungs):
    for point in ladder.iso_flop_points(base, rungs, [1e12, 2e12]):
        config = with_overrides(base, point.overrides)
        flops = sizing.model_size(config).flops_per_token * sizing.planned_tokens(config)
        assert flops == pytest.approx(float(point.budget), rel=0.05)
        assert config.optimizer.warmup_steps == round(config.steps / 20)


def test_data_points_change_the_schedule_alone(base):
    points = ladder.data_points(base, (100, 20))
    assert [point.name for point in points] == ['d25.6k', 'd128k']
    assert points[0].overrides == {
        'optimizer.schedule_steps': 20,
        'optimizer.warmup_steps': 1,
        'train.steps': 0,
    }


@pytest.mark.parametrize(
    'number, text',
    [(999, '999'), (1000, '1k'), (98_880, '98.9k'), (999_950, '1M'), (3.23e6, '3.23M')],
)
def test_numbers_are_shortened(number, text):
    assert ladder.short_number(number) == text


def test_what_cannot_be_built_is_refused(base, rungs):
    with pytest.raises(UserError, match='no model of 16-wide heads'):
        ladder.make_ladder(base, [500], ladder.Form(head_dim=16))
    with pytest.raises(UserError, match='cannot be rounded to 5 %'):
        ladder.make_point(base, rungs[0], 2000)
