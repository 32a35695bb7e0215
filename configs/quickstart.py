"""Trains one arm from the bundled base on synthetic tasks, in two minutes on two CPU cores.

    python -m bsft_jax.train --config=configs/quickstart.py:behavior_sft \\
        --workdir=runs/one/behavior_sft
    python -m bsft_jax.evaluate --workdir=runs/one/behavior_sft --limit=630

Expected result: overall macro-F1 0.645 for behavior_sft and 0.651 for general_sft, as in
`configs/studies/quickstart.py`, which compares the two arms (docs/results.md; other processors
round differently).
"""

from bsft_jax.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
)


def get_config(arg: str = 'behavior_sft') -> RunConfig:
    """Returns the training of an arm."""
    return RunConfig(
        arm=arg,
        model=ModelConfig(base='tiny-clinical'),
        data=DataConfig(
            source='synthetic:1200', sequence_length=160, global_batch_rows=24, answer_format='text'
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, schedule_steps=400),
        checkpoint=CheckpointConfig(interval=200),
        evaluation=EvaluationConfig(interval=100, limit=126),
    )
