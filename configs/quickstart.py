"""Two arms from the bundled base on synthetic tasks, in minutes on two CPU cores.

    bash launch/quickstart.sh

runs both arms, evaluates them and the base, and prints a table. One arm by hand:

    python -m bsft_jax.train --config=configs/quickstart.py:behavior_sft --workdir=runs/quickstart/behavior_sft
    python -m bsft_jax.evaluate --workdir=runs/quickstart/behavior_sft

The bundled base is a first, small one: it learns which behavior a request wants only in part, and
the figures are what they are.
"""

from bsft_jax.config import (
    CheckpointSection,
    DataSection,
    EvaluationSection,
    ModelSection,
    OptimizerSection,
    RunConfig,
)


def get_config(arg: str = 'behavior_sft') -> RunConfig:
    return RunConfig(
        arm=arg,
        model=ModelSection(base='tiny-clinical'),
        data=DataSection(
            source='synthetic:2000', sequence_length=288, rows_per_step=16, answer_format='text'
        ),
        optimizer=OptimizerSection(learning_rate=1e-3, warmup_steps=20, schedule_steps=300),
        checkpoint=CheckpointSection(interval=100),
        evaluation=EvaluationSection(interval=100, limit=120),
    )
