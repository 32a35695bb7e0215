"""Recipes that the configs of open base models share."""

from __future__ import annotations

from bsft_jax.config import (
    CheckpointConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from bsft_jax.errors import UserError

# Variant, which is the training mode → dtype of the base, peak learning rate.
VARIANTS = {
    'lora': ('bfloat16', 2e-4),
    'full': ('float32', 1e-5),
    'behavior_rows': ('bfloat16', 1e-3),
}


def fine_tune(
    base: str, variant: str, *, sequence_length: int, global_batch_rows: int, mesh: MeshConfig
) -> RunConfig:
    """Returns the fine-tuning of an open model in bfloat16 with full rematerialization.

    Args:
      base: a hub id.
      variant: what trains, one of VARIANTS.
      sequence_length: tokens of a row.
      global_batch_rows: rows of a step.
      mesh: axis sizes.

    Raises UserError for an unknown variant.
    """
    if variant not in VARIANTS:
        raise UserError(
            f'{variant!r} is not one of {", ".join(VARIANTS)}', where='--config=FILE:VARIANT'
        )
    base_dtype, learning_rate = VARIANTS[variant]
    return RunConfig(
        train=TrainConfig(mode=variant, remat='full'),
        model=ModelConfig(base=base, dtype='bfloat16', base_dtype=base_dtype, row_init='fitted'),
        data=DataConfig(
            source='synthetic:20000',
            sequence_length=sequence_length,
            global_batch_rows=global_batch_rows,
        ),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate, warmup_steps=50, schedule_steps=1000, weight_decay=0.01
        ),
        mesh=mesh,
        checkpoint=CheckpointConfig(interval=200),
    )
