"""Tests that the arms share one plan, and of the labels that each arm trains on."""

import collections

import numpy as np
import pytest

from bsft_jax import config as config_lib
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.training import setup
from tests.run import examples_of
from tests.tiny import random_model


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return str(random_model(tmp_path_factory.mktemp('base')))


@pytest.fixture(scope='module')
def examples(base):
    def make(arm='behavior_sft', **data):
        config = RunConfig(arm=arm, seed=5)
        config.model.base, config.data.source = base, 'synthetic:40'
        config.data.answer_format, config.data.global_batch_rows = 'text', 8
        for name, value in data.items():
            setattr(config.data, name, value)
        spec = setup.read_base(config_lib.validate(config))
        return spec, *examples_of(config, spec)

    return make


def prefixes(spec, store):
    """Returns the prefix of every example: its first ids with weight."""
    size = len(spec.behaviors.prefixes[0])
    firsts = (store[i].ids[np.flatnonzero(store[i].weights)[0] :][:size] for i in range(len(store)))
    return [tuple(first.tolist()) for first in firsts]


def test_all_arms_share_one_plan(examples):
    by_arm = {arm: examples(arm) for arm in config_lib.ARMS}
    assert len({plan.hash for _, _, plan in by_arm.values()}) == 1
    assert len({store.hash for _, store, _ in by_arm.values()}) == len(config_lib.ARMS)
    noisy = examples(label_noise=0.5)
    assert noisy[2].hash == by_arm['behavior_sft'][2].hash


def test_a_run_trains_on_the_labels_of_its_arm(examples):
    spec, store, _ = examples()
    true = prefixes(spec, store)
    shuffled = prefixes(spec, examples('shuffled_token')[1])
    assert collections.Counter(shuffled) == collections.Counter(true) and shuffled != true
    noisy = prefixes(spec, examples(label_noise=0.25)[1])
    assert sum(a != b for a, b in zip(true, noisy, strict=True)) == round(0.25 * len(true))
    neutral, store, _ = examples('neutral_token')
    assert set(prefixes(neutral, store)) == set(neutral.behaviors.prefixes)
    assert len(neutral.behaviors.ids) == 1


def test_a_category_is_left_out_of_training(examples, capsys):
    _, store, _ = examples(exclude_category='omission_detection')
    assert 0 < len(store) < len(examples()[1])
    assert 'records of omission_detection are held out' in capsys.readouterr().err


def test_behavior_rows_alone_can_train_where_an_arm_adds_them():
    for arm, kind in config_lib.ARMS.items():
        config = RunConfig(arm=arm)
        config.train.mode = 'behavior_rows'
        if kind in ('tokens', 'neutral'):
            config_lib.validate(config)
        else:
            with pytest.raises(UserError, match='no trainable token'):
                config_lib.validate(config)
