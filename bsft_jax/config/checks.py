"""Checks of a RunConfig that need no device."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from bsft_jax import behaviors as behaviors_lib
from bsft_jax.config import curriculum, types
from bsft_jax.config.schema import (
    ARMS,
    ATTENTION,
    LINEAR_MAPS,
    MESH_AXES,
    MODES,
    OPTIMIZERS,
    QUANTIZED,
    REMAT,
    OptimizerConfig,
    RunConfig,
)
from bsft_jax.config.shape import parse_shape
from bsft_jax.config.telemetry import TRACKERS
from bsft_jax.errors import UserError
from bsft_jax.records import taxonomy

# bfloat16 has 8 significant bits: with a larger b2, a step's share of the second moment, 1 - b2,
# is rounded away.
MAX_BFLOAT16_B2 = 0.99

# Fields of the optimizer that Adafactor has no use for.
_NOT_OF_ADAFACTOR = ('b1', 'b2', 'eps', 'moment_dtype')

# Field → its values.
CHOICES = {
    'arm': ARMS,
    'train.mode': MODES,
    'train.remat': REMAT,
    'model.init': ('checkpoint', 'random'),
    'model.dtype': ('float32', 'bfloat16'),
    'model.base_dtype': ('float32', 'bfloat16', *QUANTIZED),
    'model.row_init': ('description', 'fitted', 'mean', 'normal'),
    'model.attention': ATTENTION,
    'optimizer.name': OPTIMIZERS,
    'optimizer.moment_dtype': ('float32', 'bfloat16'),
    'data.answer_format': ('letter', 'text'),
    'data.train_on': ('answer', 'turns'),
    'data.unlabeled': ('plain', 'refuse'),
}

# Field → its interval. One that is open at inf excludes infinity, and none contains nan.
RANGES = {
    # jax keeps 32 bits of a seed.
    'seed': '[0, 4294967296)',
    'log_interval': '[1, inf)',
    'data.sequence_length': '[8, inf)',
    'data.global_batch_rows': '[1, inf)',
    'data.behavior_weight': '[0, inf)',
    'data.max_dropped_fraction': '[0, 1]',
    'data.label_noise': '[0, 1]',
    'optimizer.learning_rate': '[0, inf)',
    'optimizer.behavior_lr_factor': '(0, inf)',
    'optimizer.warmup_steps': '[0, inf)',
    'optimizer.schedule_steps': '[1, inf)',
    'optimizer.end_lr_ratio': '[0, 1]',
    'optimizer.weight_decay': '[0, inf)',
    'optimizer.b1': '[0, 1)',
    'optimizer.b2': '[0, 1)',
    'optimizer.eps': '(0, inf)',
    # An infinite norm clips nothing.
    'optimizer.clip_norm': '(0, inf]',
    'train.gradient_accumulation_steps': '[1, inf)',
    'train.steps': '[0, inf)',
    'lora.rank': '[1, inf)',
    'lora.alpha': '(0, inf)',
    'lora.dropout': '[0, 1)',
    'mesh.devices': '[0, inf)',
    'checkpoint.interval': '[1, inf)',
    'checkpoint.keep': '[1, inf)',
    'evaluation.interval': '[0, inf)',
    'evaluation.limit': '[1, inf)',
    'evaluation.tokens_per_batch': '[1, inf)',
}


def validate(config: RunConfig) -> RunConfig:
    """Checks everything that can be checked before a device is touched and returns the config.

    Raises UserError, which names the flag to change.
    """
    types.check_types(config, '--config.')
    for field, allowed in CHOICES.items():
        _check_choice(field, _value(config, field), allowed)
    if config.data.exclude_category:
        _check_choice('data.exclude_category', config.data.exclude_category, taxonomy.CATEGORIES)
    behaviors_lib.validate_behaviors(config.behaviors)
    for field, interval in RANGES.items():
        if not _lies_in(value := _value(config, field), interval):
            raise UserError(f'{value} is not in {interval}', where=f'--config.{field}')
    _check_frozen(config)
    _check_optimizer(config)
    _check_steps(config)
    _check_mesh(config)
    for name in config.tracking.names:
        _check_choice('tracking.report_to', name, ('none', *TRACKERS))
    return config


def _value(config: RunConfig, field: str):
    return functools.reduce(getattr, field.split('.'), config)


def _check_choice(field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise UserError(
            f'{types.shown(value)} is not one of {", ".join(allowed)}', where=f'--config.{field}'
        )


def _lies_in(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(', '))
    above = value >= low if interval[0] == '[' else value > low
    return above and (value <= high if interval[-1] == ']' else value < high)


def _check_optimizer(config: RunConfig) -> None:
    """Checks that the optimizer has parameters to update and a use for every field."""
    optimizer, mode = config.optimizer, config.train.mode
    if optimizer.name == 'muon' and mode != 'full':
        raise UserError(
            f"muon updates the layers' kernels, and none trains with --config.train.mode={mode}",
            where='--config.optimizer.name',
            fix='use --config.optimizer.name=adamw, which all that trains there would have',
        )
    for field in _NOT_OF_ADAFACTOR if optimizer.name == 'adafactor' else ():
        value, default = getattr(optimizer, field), getattr(OptimizerConfig, field)
        if value != default:
            raise UserError(
                f'{types.shown(value)} has no effect with --config.optimizer.name=adafactor, whose '
                'moments are factored, in float32 and of a decay of their own',
                where=f'--config.optimizer.{field}',
                fix=f'leave it at {default}, or use another optimizer',
            )
    if optimizer.moment_dtype == 'bfloat16' and optimizer.b2 > MAX_BFLOAT16_B2:
        raise UserError(
            f'in bfloat16 the second moment stands still with b2 = {optimizer.b2}: what a step '
            'adds is rounded away',
            where='--config.optimizer.moment_dtype',
            fix=f'set --config.optimizer.b2 to {MAX_BFLOAT16_B2} at most, or keep float32',
        )


def _check_steps(config: RunConfig) -> None:
    """Checks the schedule and its stages, the rows of a step, and the steps that are traced."""
    data, optimizer, train = config.data, config.optimizer, config.train
    if config.steps > optimizer.schedule_steps:
        raise UserError(
            f'{train.steps} steps are more than the schedule has ({optimizer.schedule_steps})',
            where='--config.train.steps',
            fix='raise --config.optimizer.schedule_steps',
        )
    if optimizer.warmup_steps >= optimizer.schedule_steps:
        raise UserError(
            f'{optimizer.warmup_steps} warmup steps leave nothing of {optimizer.schedule_steps}',
            where='--config.optimizer.warmup_steps',
            fix=f'set it below {optimizer.schedule_steps}, or raise '
            '--config.optimizer.schedule_steps',
        )
    curriculum.parse_stages(data.curriculum, optimizer.schedule_steps)
    if data.global_batch_rows % train.gradient_accumulation_steps:
        raise UserError(
            f'{train.gradient_accumulation_steps} does not divide the {data.global_batch_rows} '
            'rows of a step',
            where='--config.train.gradient_accumulation_steps',
        )
    if config.trace_steps and config.trace_steps[0] > config.steps:
        raise UserError(
            f'{config.profile.trace_steps!r} begins after the last of {config.steps} steps',
            where='--config.profile.trace_steps',
        )


def _check_mesh(config: RunConfig) -> None:
    """Checks the mesh as far as that needs no devices."""
    sizes = {axis: getattr(config.mesh, axis) for axis in MESH_AXES}
    if sum(s == -1 for s in sizes.values()) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
        listed = ' '.join(f'{axis}={size}' for axis, size in sizes.items())
        raise UserError(
            f'mesh sizes {listed} must be positive, one may be -1', where='--config.mesh'
        )
    context, length = config.mesh.context, config.data.sequence_length
    if context > 1 and length % context:
        raise UserError(
            f'{context} does not divide the {length} tokens of a row',
            where='--config.mesh.context',
            fix='change --config.data.sequence_length',
        )


def _check_frozen(config: RunConfig) -> None:
    """Checks what trains, the dtype of a frozen base, and the adapters."""
    if config.train.mode == 'full' and config.model.base_dtype != 'float32':
        raise UserError(
            f'{config.model.base_dtype} is for frozen parameters, and every parameter trains',
            where='--config.model.base_dtype',
            fix='use --config.train.mode=lora or behavior_rows, or --config.model.dtype=bfloat16',
        )
    if config.train.mode == 'behavior_rows' and config.prefix_kind not in ('tokens', 'neutral'):
        raise UserError(
            f'no trainable token: arm {config.arm!r} adds no behavior rows',
            where='--config.train.mode',
            fix='use --config.arm=behavior_sft or --config.train.mode=full',
        )
    if config.model.init == 'random' and config.compute.quantized:
        raise UserError(
            f'{config.model.base_dtype} needs weights of a checkpoint',
            where='--config.model.base_dtype',
        )
    if config.model.shape and config.model.init != 'random':
        raise UserError(
            'the weights of a checkpoint have its own sizes',
            where='--config.model.shape',
            fix='use --config.model.init=random, or drop it',
        )
    if config.model.shape:
        parse_shape(config.model.shape)
    try:
        targets = re.compile(config.lora.targets)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f'not a regular expression ({error})', where='--config.lora.targets'
        ) from error
    if not any(targets.fullmatch(path) for path in LINEAR_MAPS):
        raise UserError(
            f'{types.shown(config.lora.targets)} matches no linear map',
            where='--config.lora.targets',
            fix=f'choose from {", ".join(LINEAR_MAPS)}',
        )
