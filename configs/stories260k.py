"""Trains one arm from stories260k (Karpathy, llama2.c), a Llama of 260 thousand parameters.

    python -m bsft_jax.prepare --source=medec:DIR --output=runs/medec/data
    python -m bsft_jax.train --config=configs/stories260k.py:behavior_sft \\
        --workdir=runs/stories260k/behavior_sft --config.model.base=STORIES260K_HF_DIR
    python -m bsft_jax.evaluate --workdir=runs/stories260k/behavior_sft

It is a smoke run on real weights. The base has no chat template, so the config names one, and no
spare row in its embedding table, so the table grows by two rows on export.

The model reads 512 tokens. The median note of MEDEC has 481 of its tokens, a record with options
and rationale 737: `max_dropped_fraction` allows for the 93 % of the records that are dropped.

Expected result: 4 test records can be scored, and none is right, since the base has only seen
children's stories (benchmarks/results/real_notes.json). The run shows that a grown table trains,
resumes and exports, nothing else.
"""

from bsft_jax.config import CheckpointConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig


def get_config(arg: str = 'behavior_sft') -> RunConfig:
    """Returns the training of an arm."""
    return RunConfig(
        arm=arg,
        model=ModelConfig(base='runs/stories260k/hf'),
        data=DataConfig(
            source='jsonl:runs/medec/data',
            sequence_length=512,
            global_batch_rows=8,
            max_dropped_fraction=0.96,
            chat_template='configs/stories260k.jinja',
        ),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=20, schedule_steps=200),
        checkpoint=CheckpointConfig(interval=100),
    )
