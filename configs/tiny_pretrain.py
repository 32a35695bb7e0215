"""Pretrains `bsft_jax/assets/tiny-clinical` from random weights on conversations about simulated cases.

    python -m bsft_jax.data.tokenizer_training --source=synthetic_text:6000 --source=synthetic:300 \
        --source=synthetic_lists:2000 --vocab_size=1500 --output=runs/tiny/blank
    python -m bsft_jax.train --config=configs/tiny_pretrain.py:first --workdir=runs/tiny/first
    python -m bsft_jax.export --workdir=runs/tiny/first --output=runs/tiny/halfway
    python -m bsft_jax.train --config=configs/tiny_pretrain.py:second --workdir=runs/tiny/second
    python -m bsft_jax.export --workdir=runs/tiny/second --output=runs/tiny/tiny-clinical
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

STAGES = {
    'first': (ModelSection(base='runs/tiny/blank', weights='random'), 'synthetic_lists:40000', 1000, 1.0),
    'second': (ModelSection(base='runs/tiny/halfway'), 'synthetic_text:200000', 7500, 0.1),
}


def get_config(arg: str = 'first') -> RunConfig:
    model, source, steps, final_ratio = STAGES[arg]
    return RunConfig(
        arm='general_sft',
        model=model,
        data=DataSection(
            source=source,
            sequence_length=128,
            rows_per_step=20,
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
