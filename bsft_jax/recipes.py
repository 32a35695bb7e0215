"""Recipes: what the configs of open base models share."""

from __future__ import annotations

from bsft_jax.config import (
    CheckpointSection,
    DataSection,
    MeshSection,
    ModelSection,
    OptimizerSection,
    RunConfig,
    TrainSection,
)
from bsft_jax.errors import UserError

VARIANTS = {  # train.mode, dtype of the base, peak learning rate
    'lora': ('bfloat16', 2e-4),
    'full': ('float32', 1e-5),
    'behavior_rows': ('bfloat16', 1e-3),
}


def open_model(
    base: str, variant: str, *, sequence_length: int, rows_per_step: int, mesh: MeshSection
) -> RunConfig:
    """Fine-tuning of an open model in bfloat16, layers computed again in the backward pass.

    Args:
      base: a hub id.
      variant: one of VARIANTS, which is what trains.

    Raises UserError for an unknown variant.
    """
    if variant not in VARIANTS:
        raise UserError(f'{variant!r} is not one of {", ".join(VARIANTS)}', where='--config=FILE:VARIANT')
    base_dtype, learning_rate = VARIANTS[variant]
    return RunConfig(
        train=TrainSection(mode=variant, remat='full'),
        model=ModelSection(base=base, dtype='bfloat16', base_dtype=base_dtype),
        data=DataSection(
            source='synthetic:20000', sequence_length=sequence_length, rows_per_step=rows_per_step
        ),
        optimizer=OptimizerSection(
            learning_rate=learning_rate, warmup_steps=50, schedule_steps=1000, weight_decay=0.01
        ),
        mesh=mesh,
        checkpoint=CheckpointSection(interval=200),
    )
