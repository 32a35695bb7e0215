"""Pretrains `bsft_jax/assets/tiny-clinical` from random weights on conversations about simulated cases.

    python -m bsft_jax.data.tokenizer_training --source=synthetic_text:6000 --source=synthetic:300 \
        --source=synthetic_lists:2000 --vocab_size=1500 --output=runs/tiny/blank
    for stage in lists sheets scenes; do
        python -m bsft_jax.train --config=configs/tiny_pretrain.py:$stage --workdir=runs/tiny/$stage
        python -m bsft_jax.export --workdir=runs/tiny/$stage --output=runs/tiny/after-$stage
    done
    python -m benchmarks.gates --model=runs/tiny/after-scenes

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
from bsft_jax.errors import UserError

STAGES = {  # base, source, steps, learning rate at the end over its peak
    'lists': (ModelSection(base='runs/tiny/blank', weights='random'), 'synthetic_lists:40000', 1000, 1.0),
    'sheets': (ModelSection(base='runs/tiny/after-lists'), 'synthetic_sheets:40000', 1700, 1.0),
    'scenes': (ModelSection(base='runs/tiny/after-sheets'), 'synthetic_text:160000', 6000, 0.1),
}


def get_config(arg: str = 'lists') -> RunConfig:
    if arg not in STAGES:
        raise UserError(f'{arg!r} is not one of {", ".join(STAGES)}', where='--config=FILE:STAGE')
    model, source, steps, final_ratio = STAGES[arg]
    length = 128 if arg == 'lists' else 144
    return RunConfig(
        arm='general_sft',
        model=model,
        data=DataSection(
            source=source,
            sequence_length=length,
            rows_per_step=2592 // length,
            answer_format='text',
            loss_on='turns',
            drop_long=0.1,
        ),
        optimizer=OptimizerSection(
            learning_rate=1e-3,
            warmup_steps=100,
            schedule_steps=steps,
            final_ratio=final_ratio,
            weight_decay=0.05,
        ),
        checkpoint=CheckpointSection(interval=500, keep=3),
    )
