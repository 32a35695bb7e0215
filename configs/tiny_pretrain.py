"""Pretrains `bsft_jax/assets/tiny-clinical` from random weights on simulated case text, in two stages.

    python -m bsft_jax.data.tokenizer_training --source=synthetic_text:4000 --vocab_size=1024 --output=runs/tiny/blank
    python -m bsft_jax.train --config=configs/tiny_pretrain.py:first --workdir=runs/tiny/first
    python -m bsft_jax.export --workdir=runs/tiny/first --output=runs/tiny/halfway
    python -m bsft_jax.train --config=configs/tiny_pretrain.py:second --workdir=runs/tiny/second
    python -m bsft_jax.export --workdir=runs/tiny/second --output=runs/tiny/tiny-clinical

About 20 minutes a stage on two CPU cores that had other work as well. The text is free case notes with questions and answers
about them, from a seed domain of its own: no task format, no behavior token, no test case.
"""

from bsft_jax.config import (
    CheckpointSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    RunConfig,
)

STAGES = {
    'first': (ModelSection(base='runs/tiny/blank', weights='random'), 'synthetic_text:60000', 1.5e-3),
    'second': (ModelSection(base='runs/tiny/halfway'), 'synthetic_text:60000:1', 1e-3),
}


def get_config(arg: str = 'first') -> RunConfig:
    model, source, learning_rate = STAGES[arg]
    return RunConfig(
        arm='general_sft',
        model=model,
        data=DataSection(source=source, sequence_length=256, rows_per_step=16, answer_format='text'),
        optimizer=OptimizerSection(
            learning_rate=learning_rate, warmup_steps=50, schedule_steps=2400, weight_decay=0.05
        ),
        checkpoint=CheckpointSection(interval=400),
    )
