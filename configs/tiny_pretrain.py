"""Pretrains `bsft_jax/assets/tiny-clinical` from random weights on simulated case text.

    python -m bsft_jax.data.tokenizer_training --source=synthetic_text:4000 --vocab_size=1024 --output=runs/tiny/blank
    python -m bsft_jax.train --config=configs/tiny_pretrain.py --workdir=runs/tiny/run
    python -m bsft_jax.export --workdir=runs/tiny/run --output=runs/tiny/tiny-clinical

About ten minutes on two CPU cores. The text is free case notes with questions and answers about
them, from a seed domain of its own: no task format, no behavior token, no test case.
"""

from bsft_jax.config import (
    CheckpointSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    RunConfig,
)


def get_config(arg: str = '') -> RunConfig:
    del arg
    return RunConfig(
        arm='general_sft',
        model=ModelSection(base='runs/tiny/blank', weights='random'),
        data=DataSection(
            source='synthetic_text:60000', sequence_length=256, rows_per_step=16, answer_format='text'
        ),
        optimizer=OptimizerSection(
            learning_rate=1.5e-3, warmup_steps=50, schedule_steps=2400, weight_decay=0.05
        ),
        checkpoint=CheckpointSection(interval=400),
    )
