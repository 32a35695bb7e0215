"""What of a RunConfig can be checked before a device is touched."""

from __future__ import annotations

import functools
import re

from bsft_jax import behaviors as behaviors_lib
from bsft_jax.behaviorbench import taxonomy
from bsft_jax.config import ARMS, ATTENTION, LINEAR_MAPS, MESH_AXES, MODES, REMAT, RunConfig
from bsft_jax.errors import UserError

MOST_B2 = 0.99  # with moments in bfloat16, whose 8 bits a step of 1 - b2 must be able to move


RANGES = {  # field → its interval; one that is open at inf excludes what is not finite, and none holds nan
    'seed': '[0, 4294967296)',  # 32 bits are what jax keeps of a seed
    'log_interval': '[1, inf)',
    'data.sequence_length': '[8, inf)',
    'data.rows_per_step': '[1, inf)',
    'data.behavior_weight': '[0, inf)',
    'data.drop_long': '[0, 1]',
    'data.label_noise': '[0, 1]',
    'optimizer.learning_rate': '[0, inf)',
    'optimizer.warmup_steps': '[0, inf)',
    'optimizer.schedule_steps': '[1, inf)',
    'optimizer.final_ratio': '[0, 1]',
    'optimizer.weight_decay': '[0, inf)',
    'optimizer.b1': '[0, 1)',
    'optimizer.b2': '[0, 1)',
    'optimizer.eps': '(0, inf)',
    'optimizer.clip_norm': '(0, inf]',  # inf clips nothing
    'train.accumulation': '[1, inf)',
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


def _lies_in(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(', '))
    above = value >= low if interval[0] == '[' else value > low
    return above and (value <= high if interval[-1] == ']' else value < high)


def check(config: RunConfig) -> None:
    """Checks everything that can be checked before a device is touched; raises UserError."""

    def choice(field: str, value: str, allowed) -> None:
        if value not in allowed:
            raise UserError(f'{value!r} is not one of {", ".join(allowed)}', where=f'--config.{field}')

    choice('arm', config.arm, ARMS)
    choice('train.mode', config.train.mode, MODES)
    choice('model.weights', config.model.weights, ('checkpoint', 'random'))
    choice('model.dtype', config.model.dtype, ('float32', 'bfloat16'))
    choice('train.remat', config.train.remat, REMAT)
    choice('model.attention', config.model.attention, ATTENTION)
    choice('model.base_dtype', config.model.base_dtype, ('float32', 'bfloat16', 'int8'))
    choice('model.new_rows', config.model.new_rows, ('description', 'mean', 'normal'))
    choice('optimizer.moments', config.optimizer.moments, ('float32', 'bfloat16'))
    choice('data.answer_format', config.data.answer_format, ('letter', 'text'))
    choice('data.loss_on', config.data.loss_on, ('answer', 'turns'))
    choice('data.without_behavior', config.data.without_behavior, ('plain', 'refuse'))
    behaviors_lib.validate_behaviors(config.behaviors)
    if config.data.hold_out:
        choice('data.hold_out', config.data.hold_out, taxonomy.CATEGORIES)
    d, o, t = config.data, config.optimizer, config.train
    for field, interval in RANGES.items():
        value = functools.reduce(getattr, field.split('.'), config)
        if not _lies_in(value, interval):
            raise UserError(f'{value} is not in {interval}', where=f'--config.{field}')
    if o.moments == 'bfloat16' and o.b2 > MOST_B2:
        raise UserError(
            f'in bfloat16 the second moment stands still with b2 = {o.b2}: what a step adds is rounded away',
            where='--config.optimizer.moments',
            fix=f'set --config.optimizer.b2 to {MOST_B2} at most, or keep float32',
        )
    _check_frozen(config)
    if config.steps > o.schedule_steps:
        raise UserError(
            f'{t.steps} steps are more than the schedule has ({o.schedule_steps})',
            where='--config.train.steps',
            fix='raise --config.optimizer.schedule_steps',
        )
    if o.warmup_steps >= o.schedule_steps:
        raise UserError(
            f'{o.warmup_steps} warmup steps leave nothing of {o.schedule_steps}',
            where='--config.optimizer.warmup_steps',
        )
    if d.rows_per_step % t.accumulation:
        raise UserError(
            f'{t.accumulation} does not divide the {d.rows_per_step} rows of a step',
            where='--config.train.accumulation',
        )
    if t.mode == 'behavior_rows' and config.form not in ('tokens', 'neutral'):
        raise UserError(
            f'no trainable token: arm {config.arm!r} adds no behavior rows',
            where='--config.train.mode',
            fix='use --config.arm=behavior_sft or --config.train.mode=full',
        )
    _check_mesh(config)
    if config.profiled and config.profiled[0] > config.steps:
        raise UserError(
            f'{config.profile.steps!r} begins behind the last of {config.steps} steps',
            where='--config.profile.steps',
        )


def _check_mesh(config: RunConfig) -> None:
    """Checks what the mesh says before there are devices."""
    sizes = {axis: getattr(config.mesh, axis) for axis in MESH_AXES}
    if sum(s == -1 for s in sizes.values()) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
        raise UserError(
            f'mesh sizes {" ".join(f"{axis}={size}" for axis, size in sizes.items())} must be positive, one may be -1',
            where='--config.mesh',
        )
    context, length = config.mesh.context, config.data.sequence_length
    if context > 1 and length % context:
        raise UserError(
            f'{context} does not divide the {length} tokens of a row',
            where='--config.mesh.context',
            fix='change --config.data.sequence_length',
        )


def _check_frozen(config: RunConfig) -> None:
    """Checks what belongs to a frozen base: its dtype and the adapters."""
    if config.train.mode == 'full' and config.model.base_dtype != 'float32':
        raise UserError(
            f'{config.model.base_dtype} is for frozen parameters, and every parameter trains',
            where='--config.model.base_dtype',
            fix='use --config.train.mode=lora or behavior_rows, or --config.model.dtype=bfloat16',
        )
    if config.model.weights == 'random' and config.model.base_dtype == 'int8':
        raise UserError('int8 needs weights of a checkpoint', where='--config.model.base_dtype')
    try:
        targets = re.compile(config.lora.targets)
    except re.error as error:
        raise UserError(f'not a regular expression ({error})', where='--config.lora.targets') from error
    if not any(targets.fullmatch(path) for path in LINEAR_MAPS):
        raise UserError(
            f'{config.lora.targets!r} matches no linear map',
            where='--config.lora.targets',
            fix=f'there are {", ".join(LINEAR_MAPS)}',
        )
