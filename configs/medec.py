"""Real clinical notes: error correction on MEDEC (Ben Abacha et al., arXiv 2412.19260), either arm.

    python -m bsft_jax.prepare --source=medec:DIR --output=runs/medec/data
    python -m bsft_jax.train --config=configs/medec.py:behavior_sft --workdir=runs/medec/behavior_sft
    python -m bsft_jax.evaluate --workdir=runs/medec/behavior_sft

From the bundled base of a million parameters this shows that real notes go through, not that they
are understood: expect figures near chance. Set --config.model.base to a real model to learn more.
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
            source='jsonl:runs/medec/data', sequence_length=1024, rows_per_step=4, drop_long=0.5
        ),
        optimizer=OptimizerSection(learning_rate=5e-4, warmup_steps=20, schedule_steps=200),
        checkpoint=CheckpointSection(interval=100),
    )
