"""The run description: what it refuses, what may change on resume, and that it survives a file."""

import dataclasses
import math
import re

import pytest

from bsft_jax import config as config_lib
from bsft_jax.behaviors import Behavior
from bsft_jax.config import RunConfig
from bsft_jax.config_checks import RANGES
from bsft_jax.errors import UserError


def changed(path, value):
    config = RunConfig()
    *sections, field = path.split('.')
    target = config
    for section in sections:
        target = getattr(target, section)
    setattr(target, field, value)
    return config


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('arm', 'text'),
        ('train.mode', 'adapters'),
        ('model.base_dtype', 'bfloat16'),  # of parameters that train
        ('model.base_dtype', 'int4'),
        ('train.remat', 'some'),
        ('model.new_rows', 'zero'),
        ('lora.rank', 0),
        ('lora.dropout', 1.0),
        ('lora.targets', 'attention/x'),
        ('lora.targets', '('),
        ('model.dtype', 'float16'),
        ('model.weights', 'pickle'),
        ('data.answer_format', 'number'),
        ('data.without_behavior', 'ignore'),
        ('data.sequence_length', 4),
        ('data.rows_per_step', 0),
        ('data.label_noise', -0.1),
        ('data.label_noise', 1.1),
        ('data.hold_out', 'omissions'),
        ('optimizer.learning_rate', -1.0),
        ('optimizer.warmup_steps', 200),
        ('optimizer.clip_norm', 0.0),
        ('optimizer.moments', 'float16'),
        ('train.steps', 201),
        ('train.accumulation', 3),
        ('mesh.fsdp', -1),
        ('mesh.tensor', 0),
        ('log_interval', 0),
        ('behaviors', (Behavior('reactive', 0.0, 'x'),)),
        ('behaviors', (Behavior('a', 0.0, 'x'), Behavior('b', 1.5, 'x'))),
        ('behaviors', (Behavior('a', 0.0, 'x'), Behavior('b', 1.0, ' '))),
        ('behaviors', (Behavior('none', 0.0, 'x'), Behavior('b', 1.0, 'x'))),
    ],
)
def test_bad_values_name_their_flag(path, value):
    with pytest.raises(UserError) as error:
        changed(path, value).validate()
    assert f'config.{path if path.startswith("data") else path.split(".")[0]}' in str(error.value)


OUTSIDE = {
    'seed': (-1, 2**32),
    'data.behavior_weight': (-1.0, math.inf),
    'data.drop_long': (-0.1, 7.0),
    'optimizer.learning_rate': (-1.0, math.inf),
    'optimizer.final_ratio': (-3.0, 1.1),
    'optimizer.weight_decay': (-0.1, math.inf),
    'optimizer.b1': (-0.1, 1.5),
    'optimizer.b2': (-0.1, 1.0),
    'optimizer.eps': (-1.0, 0.0),
    'lora.alpha': (0.0, math.inf),
    'lora.dropout': (-0.1, 1.0),
    'evaluation.tokens_per_batch': (-5, 0),
}


def test_no_number_lies_outside_of_its_range():
    for path in RANGES:
        for value in (*OUTSIDE.get(path, ()), -math.inf, math.nan):
            with pytest.raises(UserError, match=rf'--config\.{re.escape(path)}: {value} is not in '):
                changed(path, value).validate()
    changed('optimizer.clip_norm', math.inf).validate()
    numbers = {
        path
        for path, value in config_lib.flatten(RunConfig().to_dict()).items()
        if type(value) in (int, float)
    }
    assert numbers - RANGES.keys() == {'mesh.data', 'mesh.fsdp', 'mesh.context', 'mesh.tensor'}


def test_a_trace_behind_the_last_step():
    with pytest.raises(UserError, match=r'--config\.profile\.steps: .* behind the last of 200'):
        changed('profile.steps', '500:600').validate()


def test_moments_in_bfloat16_want_a_second_one_that_moves():
    config = changed('optimizer.moments', 'bfloat16')
    config.optimizer.b2 = 0.99
    config.validate()
    config.optimizer.b2 = 0.999
    with pytest.raises(UserError, match='stands still'):
        config.validate()


def test_defaults_are_valid_and_survive_a_file():
    config = RunConfig().validate()
    assert config_lib.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match='unknown field data.speed'):
        config_lib.from_dict({'data': {'speed': 1}})


def test_rows_without_tokens_train_nothing():
    config = RunConfig(arm='general_sft')
    config.train.mode = 'behavior_rows'
    with pytest.raises(UserError, match='no trainable token'):
        config.validate()


def test_only_fixed_fields_count_as_differences():
    old = RunConfig().to_dict()
    free = changed('mesh.data', 8)
    free.train.steps, free.checkpoint.interval, free.evaluation.limit = 5, 7, 9
    assert config_lib.differences(old, free.to_dict()) == []
    assert config_lib.differences(old, changed('optimizer.schedule_steps', 300).to_dict()) == [
        'optimizer.schedule_steps: 200 → 300'
    ]
    assert config_lib.differences(old, changed('data.source', 'jsonl:x').to_dict())


def test_size_of_the_config():
    assert len(config_lib.flatten(RunConfig().to_dict())) <= 80
    assert set(config_lib.flatten(RunConfig().to_dict())) > config_lib.FREE_FIELDS
    assert dataclasses.fields(RunConfig)
