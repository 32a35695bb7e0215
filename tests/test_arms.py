"""Arms side by side: one plan for all, and the records each is taught."""

import collections
import dataclasses

import numpy as np
import pytest

from bsft_jax import config as config_lib
from bsft_jax import runs
from bsft_jax.behaviorbench import sources, taxonomy
from bsft_jax.behaviorbench.records import Message, write_jsonl
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import records as records_lib
from bsft_jax.training import workdir as workdir_lib
from tests.tiny import random_model


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    return str(random_model(tmp_path_factory.mktemp('base')))


@pytest.fixture(scope='module')
def examples(directory):
    def make(arm='behavior_sft', **data):
        config = RunConfig(arm=arm, seed=5)
        config.model.base, config.data.source = directory, 'synthetic:40'
        config.data.answer_format, config.data.rows_per_step = 'text', 8
        for name, value in data.items():
            setattr(config.data, name, value)
        base = workdir_lib.open_base(config.validate())
        return base, *records_lib.training_examples(config, base)

    return make


def heads(base, store):
    """Head of every example: its first ids with weight."""
    size = len(base.behaviors.heads[0])
    firsts = (store[i].ids[np.flatnonzero(store[i].weights)[0] :][:size] for i in range(len(store)))
    return [tuple(first.tolist()) for first in firsts]


def test_all_arms_share_one_plan(examples):
    made = {arm: examples(arm) for arm in config_lib.ARMS}
    assert len({plan.hash for _, _, plan in made.values()}) == 1
    assert len({store.hash for _, store, _ in made.values()}) == len(config_lib.ARMS)
    noisy = examples(label_noise=0.5)
    assert noisy[2].hash == made['behavior_sft'][2].hash


def test_a_run_is_taught_the_labels_of_its_arm(examples):
    base, store, _ = examples()
    true = heads(base, store)
    shuffled = heads(base, examples('shuffled_token')[1])
    assert collections.Counter(shuffled) == collections.Counter(true) and shuffled != true
    noisy = heads(base, examples(label_noise=0.25)[1])
    assert sum(a != b for a, b in zip(true, noisy, strict=True)) == round(0.25 * len(true))
    neutral, store, _ = examples('neutral_token')
    assert set(heads(neutral, store)) == set(neutral.behaviors.heads) and len(neutral.behaviors.ids) == 1


def test_a_category_is_held_out_of_training_and_validation_only(examples, directory, capsys):
    _, store, _ = examples(hold_out='omission_detection')
    assert 0 < len(store) < len(examples()[1])
    assert 'records of omission_detection are held out' in capsys.readouterr().err
    config = RunConfig()
    config.model.base, config.data.source = directory, 'synthetic:40'
    config.data.hold_out = 'omission_detection'
    mesh = mesh_lib.single_device_mesh()
    evaluator = runs.ScoreEvaluator(config, workdir_lib.open_base(config), mesh)
    assert sorted(evaluator._scorer.categories) == sorted(set(taxonomy.CATEGORIES) - {'omission_detection'})


def test_validation_scores_are_of_records_from_everywhere_in_a_file(directory, tmp_path):
    records = sorted(sources.load_records('synthetic:200', 'validation'), key=lambda record: record.category)
    alone = [dataclasses.replace(r, case_id='', pair_id='') for r in records]
    write_jsonl(tmp_path / 'validation.jsonl', alone)
    config = RunConfig()
    config.model.base, config.data.source, config.evaluation.limit = directory, f'jsonl:{tmp_path}', 42
    mesh = mesh_lib.single_device_mesh()
    evaluator = runs.ScoreEvaluator(config, workdir_lib.open_base(config), mesh)
    assert evaluator._scorer.categories == sorted(taxonomy.CATEGORIES)

    config.evaluation.limit = 4
    write_jsonl(tmp_path / 'validation.jsonl', [dataclasses.replace(r, category='', group='') for r in alone])
    base = workdir_lib.open_base(config)
    base.network = base.network.on(mesh)
    evaluator = runs.ScoreEvaluator(config, base, mesh)
    assert list(evaluator(workdir_lib.base_params(config, base, mesh))) == ['validation/macro_f1']


def test_validation_leaves_out_as_many_long_records_as_training_may(directory, tmp_path, capsys):
    records = sources.load_records('synthetic:200', 'validation')
    long = dataclasses.replace(records[0], messages=(Message('user', 'K 5.9? ' * 4000),))
    write_jsonl(tmp_path / 'validation.jsonl', [*records[1:], long])
    config, mesh = RunConfig(), mesh_lib.single_device_mesh()
    config.model.base, config.data.source, config.evaluation.limit = directory, f'jsonl:{tmp_path}', 0
    config.data.drop_long = 0.0
    with pytest.raises(UserError, match=r'--config\.data\.drop_long: 1 of'):
        runs.ScoreEvaluator(config, workdir_lib.open_base(config), mesh)
    config.data.drop_long = 0.5
    runs.ScoreEvaluator(config, workdir_lib.open_base(config), mesh)
    assert 'are too long and left out' in capsys.readouterr().err


def test_rows_alone_can_train_where_an_arm_adds_them():
    for arm, form in config_lib.ARMS.items():
        config = RunConfig(arm=arm)
        config.train.mode = 'behavior_rows'
        if form in ('tokens', 'neutral'):
            config.validate()
        else:
            with pytest.raises(UserError, match='no trainable token'):
                config.validate()
