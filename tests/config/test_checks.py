"""Tests of the checks of a config: every bad value is refused, by the name of its flag."""

import math
import re

import pytest

from bsft_jax import config as config_lib
from bsft_jax.behaviors import Behavior
from bsft_jax.config import RunConfig
from bsft_jax.config.checks import RANGES
from bsft_jax.errors import UserError
from tests.config.config_with import config_with


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('arm', 'text'),
        ('train.mode', 'adapters'),
        # Every parameter trains by default, in float32.
        ('model.base_dtype', 'bfloat16'),
        ('model.base_dtype', 'int4'),
        ('model.base_dtype', 'nf4'),
        ('train.remat', 'some'),
        ('model.row_init', 'zero'),
        ('lora.rank', 0),
        ('lora.dropout', 1.0),
        ('lora.targets', 'attention/x'),
        ('lora.targets', '('),
        ('model.dtype', 'float16'),
        ('model.init', 'pickle'),
        ('data.answer_format', 'number'),
        ('data.unlabeled', 'ignore'),
        ('data.sequence_length', 4),
        ('data.global_batch_rows', 0),
        ('data.label_noise', -0.1),
        ('data.label_noise', 1.1),
        ('data.exclude_category', 'omissions'),
        ('optimizer.learning_rate', -1.0),
        ('optimizer.warmup_steps', 200),
        ('optimizer.clip_norm', 0.0),
        ('optimizer.moment_dtype', 'float16'),
        ('optimizer.name', 'sgd'),
        ('train.steps', 201),
        ('train.gradient_accumulation_steps', 3),
        ('mesh.fsdp', -1),
        ('mesh.tensor', 0),
        ('log_interval', 0),
        ('tracking.report_to', 'tensorboard'),
        ('tracking.report_to', 'wandb,'),
        ('behaviors', (Behavior('reactive', 0.0, 'x'),)),
        ('behaviors', (Behavior('a', 0.0, 'x'), Behavior('b', 1.5, 'x'))),
        ('behaviors', (Behavior('a', 0.0, 'x'), Behavior('b', 1.0, ' '))),
        ('behaviors', (Behavior('none', 0.0, 'x'), Behavior('b', 1.0, 'x'))),
    ],
)
def test_bad_values_name_their_flag(path, value):
    with pytest.raises(UserError) as error:
        config_lib.validate(config_with(path, value))
    assert f'config.{path if path.startswith("data") else path.split(".")[0]}' in str(error.value)


# Values outside the range of a field, beside -inf and nan.
OUTSIDE = {
    'seed': (-1, 2**32),
    'data.behavior_weight': (-1.0, math.inf),
    'data.max_dropped_fraction': (-0.1, 7.0),
    'optimizer.learning_rate': (-1.0, math.inf),
    'optimizer.behavior_lr_factor': (0.0, math.inf),
    'optimizer.end_lr_ratio': (-3.0, 1.1),
    'optimizer.weight_decay': (-0.1, math.inf),
    'optimizer.b1': (-0.1, 1.5),
    'optimizer.b2': (-0.1, 1.0),
    'optimizer.eps': (-1.0, 0.0),
    'lora.alpha': (0.0, math.inf),
    'lora.dropout': (-0.1, 1.0),
    'evaluation.tokens_per_batch': (-5, 0),
}


def test_numbers_outside_their_range_are_refused():
    for path in RANGES:
        for value in (*OUTSIDE.get(path, ()), -math.inf, math.nan):
            with pytest.raises(
                UserError,
                match=rf'--config\.{re.escape(path)}: {value} (is not in|is not an|has more)',
            ):
                config_lib.validate(config_with(path, value))
    config_lib.validate(config_with('optimizer.clip_norm', math.inf))
    values = config_lib.flatten(RunConfig().to_dict())
    numbers = {path for path, value in values.items() if type(value) in (int, float)}
    assert numbers - RANGES.keys() == {'mesh.data', 'mesh.fsdp', 'mesh.context', 'mesh.tensor'}


@pytest.mark.parametrize('steps', ['10', '4:4', '0:3', 'a:b', '7:3'])
def test_a_range_of_traced_steps_is_first_and_end(steps):
    message = r'--config\.profile\.trace_steps: cannot read .*; write FIRST:END'
    with pytest.raises(UserError, match=message):
        config_lib.validate(config_with('profile.trace_steps', steps))


def test_a_trace_after_the_last_step_is_refused():
    message = r'--config\.profile\.trace_steps: .* after the last of 200'
    with pytest.raises(UserError, match=message):
        config_lib.validate(config_with('profile.trace_steps', '500:600'))


def test_bfloat16_moments_need_a_b2_that_lets_them_move():
    config = config_with('optimizer.moment_dtype', 'bfloat16')
    config.optimizer.b2 = 0.99
    config_lib.validate(config)
    config.optimizer.b2 = 0.999
    with pytest.raises(UserError, match='stands still'):
        config_lib.validate(config)


@pytest.mark.parametrize('mode', ['lora', 'behavior_rows'])
def test_muon_needs_kernels_that_train(mode):
    config = config_with('optimizer.name', 'muon')
    config_lib.validate(config)
    config.train.mode = mode
    message = rf'--config\.optimizer\.name: muon .* none trains with --config\.train\.mode={mode}; '
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


@pytest.mark.parametrize(
    'field, value, default',
    [('b1', 0.8, 0.9), ('b2', 0.9, 0.95), ('eps', 1e-6, 1e-08), ('moment_dtype', 'bfloat16', '')],
)
def test_adafactor_refuses_what_it_has_no_use_for(field, value, default):
    config = config_with(f'optimizer.{field}', value)
    config_lib.validate(config)
    config.optimizer.name = 'adafactor'
    message = rf'--config\.optimizer\.{field}: .* no effect .*adafactor.*; leave it at .*{default}'
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


def test_an_arm_without_tokens_has_no_behavior_rows_to_train():
    config = RunConfig(arm='general_sft')
    config.train.mode = 'behavior_rows'
    with pytest.raises(UserError, match='no trainable token'):
        config_lib.validate(config)
