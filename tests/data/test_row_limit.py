"""Tests that a step of more rows than the records of an epoch fill is refused."""

import pytest

from bsft_jax.config import RunConfig
from bsft_jax.data import pipeline
from bsft_jax.errors import UserError
from bsft_jax.training import setup
from tests import run as runs
from tests.tiny import random_model


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    config = RunConfig()
    config.model.base = str(random_model(tmp_path_factory.mktemp('base')))
    config.data.source = 'synthetic:40'
    return config


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('rows', [10**8, 2**31 - 8, 10_000])
def test_more_rows_than_an_epoch_has_are_refused(config, rows, packed):
    config.data.global_batch_rows, config.data.packed = rows, packed
    message = rf'--config\.data\.global_batch_rows: {rows} rows are more than .* lower it to \d+ at'
    with pytest.raises(UserError, match=message):
        runs.examples_of(config, setup.read_base(config))
    # A sample, as doctor takes one, says nothing about the rows of an epoch.
    runs.examples_of(config, setup.read_base(config), limit=10)


@pytest.mark.parametrize('rows', ['epoch', pipeline.MAX_PADDED_ROWS])
def test_as_many_rows_as_an_epoch_has_are_one_step(config, rows):
    config.data.global_batch_rows, config.data.packed = 1, True
    spec = setup.read_base(config)
    _, plan = runs.examples_of(config, spec)
    config.data.global_batch_rows = plan.rows_per_epoch if rows == 'epoch' else rows
    _, whole = runs.examples_of(config, spec)
    assert whole.steps_per_epoch == -(-plan.rows_per_epoch // config.data.global_batch_rows)
    assert sum(map(len, whole.rows(0))) <= len(plan.lengths_N)
