"""Pretrains a small model from random weights on simulated case text: the base of size studies.

    python -m bsft_jax.train --config=configs/size_ladder.py --workdir=runs/size_ladder_base

Tokenizer, family and positions are those of `tiny-clinical`; the sizes come from `model.shape`. The
text holds no options and no behavior token (`bsft_jax/behaviorbench/pretraining/`). One epoch
suffices for the largest point of `configs/studies/size_ladder.py`, so that no record is repeated.

Expected result: none by itself; its learning rate is that of the middle of the ladder.
"""

from bsft_jax.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
)


def get_config() -> RunConfig:
    """Returns the training of one model; a study changes its shape, steps and learning rate."""
    return RunConfig(
        arm='general_sft',
        model=ModelConfig(
            base='tiny-clinical',
            init='random',
            shape='width=128,layers=4,heads=4,kv_heads=2,mlp=384',
        ),
        data=DataConfig(
            source='synthetic_text:12000',
            sequence_length=160,
            global_batch_rows=8,
            answer_format='text',
            train_on='turns',
            max_dropped_fraction=0.1,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_steps=80,
            schedule_steps=1600,
            end_lr_ratio=0.1,
            weight_decay=0.05,
        ),
        checkpoint=CheckpointConfig(interval=200, keep=1),
        evaluation=EvaluationConfig(interval=0),
    )
