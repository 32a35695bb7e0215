"""Tests how a curriculum is written: stages of levels and weights, and what is refused."""

import pytest

from bsft_jax import config as config_lib
from bsft_jax.config.curriculum import parse_stages
from bsft_jax.errors import UserError
from tests.config.config_with import config_with


@pytest.mark.parametrize(
    ('text', 'stages'),
    [
        ('', {}),
        ('2=1', {0: {2: 1.0}}),
        ('1=3,2=0.5', {0: {1: 3.0, 2: 0.5}}),
        ('0:1=2,2=1/0.3:1=1,2=1,3=2', {0: {1: 2.0, 2: 1.0}, 60: {1: 1.0, 2: 1.0, 3: 2.0}}),
        (' 1=1 / 0.25: 1=1, 2=1 / 0.995:9=2.', {0: {1: 1.0}, 50: {1: 1.0, 2: 1.0}, 199: None}),
    ],
)
def test_stages_are_read(text, stages):
    read = parse_stages(text, 200)
    assert list(read) == list(stages)
    assert all(read[step] == weights for step, weights in stages.items() if weights)
    config = config_with('data.curriculum', text)
    config.optimizer.schedule_steps = 200
    assert config_lib.validate(config).curriculum_stages == read


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('easy', "cannot read 'easy'; write each level once"),
        (' ', "cannot read ''"),
        ('1', "cannot read '1'"),
        ('1:2', "cannot read '2'"),
        ('1=1 2=1', "cannot read '1=1 2=1'"),
        ('1=1;0.5:2=1', "cannot read '1=1;0.5:2=1'"),
        ('0=1', "cannot read '0=1'"),
        ('10=1', "cannot read '10=1'"),
        ('1=-1', "cannot read '1=-1'"),
        ('1=nan', "cannot read '1=nan'"),
        ('1=1,1=2', "cannot read '1=2'"),
        ('1=1,', "cannot read ''"),
        ('1=0', "cannot read '1=0'"),
        ('1=0.0,2=0', "cannot read '1=0.0'"),
        ('1=1/0.5:2=0', "cannot read '2=0'"),
        ('1=1/', "cannot read ''"),
        ('1=1/2=1', 'stage 2 begins at 0; the first one begins at 0, the others later'),
        ('0.1:1=1', 'stage 1 begins at 0.1; the first'),
        ('1=1/0.5:2=1/0.4:3=1', 'stage 3 begins at 0.4, at step 80, which is not after'),
        ('1=1/0.5:2=1/0.5:3=1', 'stage 3 begins at 0.5, at step 100, which is not after'),
        ('1=1/0.001:2=1', r'stage 2 begins at 0.001, at step 0, which is not after .* \(step 0\)'),
        ('1=1/0.999:2=1', 'stage 2 begins at 0.999, at step 200 of 200'),
        ('1=1/1:2=1', 'stage 2 begins at 1, at step 200 of 200'),
        ('1=1/60:2=1', 'stage 2 begins at 60, at step 12000 of 200'),
    ],
)
def test_misspelt_stages_are_refused(text, message):
    with pytest.raises(UserError, match=rf'^--config\.data\.curriculum: {message}') as error:
        config_lib.validate(config_with('data.curriculum', text))
    assert '\n' not in str(error.value)


def test_a_resumed_run_keeps_its_curriculum():
    one, other = (config_with('data.curriculum', text).to_dict() for text in ('1=1', '1=1,2=1'))
    assert config_lib.differences(one, other) == ['data.curriculum: 1=1 → 1=1,2=1']
