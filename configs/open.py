"""Real clinical text: the tasks that adapters make of public sets (docs/data.md), any arm.

    python -m bsft_jax.prepare --source=open:DIR --output=runs/open/data       # or medec:DIR, mediq:DIR, ...
    python -m bsft_jax.train --config=configs/open.py:behavior_sft --workdir=runs/open/behavior_sft
    python -m bsft_jax.evaluate --workdir=runs/open/behavior_sft

From the bundled base of a million parameters this shows that real text goes through, not that it is
understood: expect figures near chance. Set --config.model.base to a real model to learn more.
"""

from bsft_jax.config import (
    CheckpointSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    RunConfig,
)


def get_config(arg: str = 'behavior_sft') -> RunConfig:
    return RunConfig(
        arm=arg,
        model=ModelSection(base='tiny-clinical'),
        data=DataSection(
            source='jsonl:runs/open/data',
            sequence_length=1024,
            rows_per_step=8,
            answer_format='text',
            drop_long=0.25,
        ),
        optimizer=OptimizerSection(learning_rate=1e-3, warmup_steps=20, schedule_steps=350),
        checkpoint=CheckpointSection(interval=350),
    )
