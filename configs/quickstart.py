"""One arm from the bundled base on synthetic tasks, in about two minutes on two CPU cores.

    python -m bsft_jax.train --config=configs/quickstart.py:behavior_sft --workdir=runs/one/behavior_sft
    python -m bsft_jax.evaluate --workdir=runs/one/behavior_sft

`configs/studies/quickstart.py` compares two arms made by it, and the larger studies five.
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
            source='synthetic:1200', sequence_length=144, rows_per_step=24, answer_format='text'
        ),
        optimizer=OptimizerSection(learning_rate=1e-3, warmup_steps=20, schedule_steps=400),
        checkpoint=CheckpointSection(interval=200),
        evaluation=EvaluationSection(interval=100, limit=126),
    )
