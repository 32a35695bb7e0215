"""Tests the coordinate check: flat on the ladder, steep in the standard parametrization."""

import pytest

from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.studies import coordinates
from bsft_jax.studies.study import load_config, with_overrides
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def config():
    config = load_config(str(ROOT / 'configs/size_ladder.py'), RunConfig)
    shape = 'width=32,layers=2,heads=2,kv_heads=2,mlp=96'
    return with_overrides(config, {'model.shape': shape, 'data.source': 'synthetic_text:60'})


def test_the_rule_of_the_ladder_keeps_sizes(config):
    found = coordinates.measure_widths(config)
    assert found.widths == (32, 64, 128) and found.steep == {}
    assert list(found.sizes)[:3] == ['logits', 'hidden change 1', 'logits change 1']
    # The deviation falls as the root of the width, so logits start alike.
    assert found.slopes['logits'] == pytest.approx(0.0, abs=0.1)
    assert 'width 128' in coordinates.format_coordinates(found)


def test_the_standard_parametrization_fails(config):
    found = coordinates.measure_widths(config, by_rule=False)
    # Logits of a tied head are sums over the width of products of independent numbers.
    assert found.slopes['logits'] == pytest.approx(0.5, abs=0.1)
    assert {'logits', 'logits change 1', 'hidden change 1'} <= found.steep.keys()


def test_a_size_that_vanishes_is_steep_too():
    found = coordinates.Coordinates((32, 64), {'flat': (1.0, 1.0), 'falls': (1.0, 0.5)})
    assert found.slopes['falls'] == pytest.approx(-1.0) and list(found.steep) == ['falls']


def test_sizes_to_start_from_are_needed(config):
    whole = with_overrides(config, {'model.shape': ''})
    with pytest.raises(UserError, match='--config.model.shape: names no sizes'):
        coordinates.measure_widths(whole)
