"""Pretrains `bsft_jax/assets/tiny-clinical` from random weights on conversations about simulated cases.

    python -m bsft_jax.data.tokenizer_training --source=synthetic_text:6000 --source=synthetic:300 \
        --vocab_size=1500 --output=runs/tiny/blank
    python -m bsft_jax.train --config=configs/tiny_pretrain.py --workdir=runs/tiny/run
    python -m bsft_jax.export --workdir=runs/tiny/run --output=runs/tiny/tiny-clinical
    python -m benchmarks.gates --model=runs/tiny/tiny-clinical

The conversations ask in free form and come from a seed domain of their own: no options, no request
of the tasks, no behavior token, no test case (`bsft_jax/behaviorbench/text.py`).
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
            source='synthetic_text:200000',
            sequence_length=128,
            rows_per_step=32,
            answer_format='text',
            loss_on='all',
            drop_long=0.05,
        ),
        optimizer=OptimizerSection(
            learning_rate=1.5e-3, warmup_steps=100, schedule_steps=16000, weight_decay=0.05
        ),
        checkpoint=CheckpointSection(interval=500, keep=3),
    )
