"""Trains one arm on tasks made from public sets of real clinical text (docs/data.md).

    python -m bsft_jax.prepare --source=open:DIR --output=runs/open/data   # or medec:DIR, mediq:DIR
    python -m bsft_jax.train --config=configs/open.py:behavior_sft --workdir=runs/open/behavior_sft
    python -m bsft_jax.evaluate --workdir=runs/open/behavior_sft

Expected result: overall macro-F1 0.354 for behavior_sft and 0.366 for general_sft on 1,450 test
records, near the 0.349 of the untouched base (docs/results.md). The bundled base of a million
parameters shows that real text passes through, not that it is understood. Set --config.model.base
to a larger model to learn more.
"""

from bsft_jax.config import CheckpointConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig


def get_config(arg: str = 'behavior_sft') -> RunConfig:
    """Returns the training of an arm."""
    return RunConfig(
        arm=arg,
        model=ModelConfig(base='tiny-clinical'),
        data=DataConfig(
            source='jsonl:runs/open/data',
            sequence_length=1024,
            global_batch_rows=8,
            answer_format='text',
            max_dropped_fraction=0.25,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, schedule_steps=350),
        checkpoint=CheckpointConfig(interval=350),
    )
