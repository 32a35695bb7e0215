"""What of a RunConfig can be checked before a device is touched."""

from __future__ import annotations

import re

from bsft_jax import behaviors as behaviors_lib
from bsft_jax.behaviorbench import taxonomy
from bsft_jax.config import ARMS, ATTENTION, LINEAR_MAPS, MESH_AXES, MODES, REMAT, RunConfig
from bsft_jax.errors import UserError

MOST_B2 = 0.99  # with moments in bfloat16, whose 8 bits a step of 1 - b2 must be able to move


def check(config: RunConfig) -> None:
    """Checks everything that can be checked before a device is touched; raises UserError."""

    def choice(field: str, value: str, allowed) -> None:
        if value not in allowed:
            raise UserError(f'{value!r} is not one of {", ".join(allowed)}', where=f'--config.{field}')

    def at_least(field: str, value, lowest) -> None:
        if not value >= lowest:
            raise UserError(f'{value} is below {lowest}', where=f'--config.{field}')

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
    for field, value, lowest in (
        ('data.sequence_length', d.sequence_length, 8),
        ('data.rows_per_step', d.rows_per_step, 1),
        ('data.behavior_weight', d.behavior_weight, 0.0),
        ('data.drop_long', d.drop_long, 0.0),
        ('data.label_noise', d.label_noise, 0.0),
        ('optimizer.learning_rate', o.learning_rate, 0.0),
        ('optimizer.warmup_steps', o.warmup_steps, 0),
        ('optimizer.schedule_steps', o.schedule_steps, 1),
        ('optimizer.weight_decay', o.weight_decay, 0.0),
        ('train.accumulation', t.accumulation, 1),
        ('lora.rank', config.lora.rank, 1),
        ('lora.dropout', config.lora.dropout, 0.0),
        ('train.steps', t.steps, 0),
        ('mesh.devices', config.mesh.devices, 0),
        ('checkpoint.interval', config.checkpoint.interval, 1),
        ('checkpoint.keep', config.checkpoint.keep, 1),
        ('evaluation.interval', config.evaluation.interval, 0),
        ('evaluation.limit', config.evaluation.limit, 1),
        ('log_interval', config.log_interval, 1),
    ):
        at_least(field, value, lowest)
    if d.label_noise > 1:
        raise UserError(f'{d.label_noise} is above 1', where='--config.data.label_noise')
    if not o.clip_norm > 0:
        raise UserError(f'{o.clip_norm} is not above 0', where='--config.optimizer.clip_norm')
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
    _ = config.profiled


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
    if not config.lora.dropout < 1:
        raise UserError(f'{config.lora.dropout} is not below 1', where='--config.lora.dropout')
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
