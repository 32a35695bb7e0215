"""A smoke run on real weights: stories260k (Karpathy, llama2.c), a Llama of 260 thousand parameters.

It has no chat template, so one is given, and no spare row, so its table grows by two on export.

    python -m bsft_jax.prepare --source=medec:DIR --output=runs/medec/data
    python -m bsft_jax.train --config=configs/stories260k.py:behavior_sft --workdir=runs/stories260k/behavior_sft \
        --config.model.base=STORIES260K_HF_DIR
    python -m bsft_jax.evaluate --workdir=runs/stories260k/behavior_sft

The model reads 512 tokens. MEDEC's median note alone has 481 of its tokens, with options and rationale
a record has 737: `drop_long` lets 93 % of the records go, and 4 test records can be scored. It has only ever
seen children's stories: this shows that a grown table trains, resumes and exports, nothing else.
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
        model=ModelSection(base='runs/stories260k/hf'),
        data=DataSection(
            source='jsonl:runs/medec/data',
            sequence_length=512,
            rows_per_step=8,
            drop_long=0.96,
            chat_template='configs/stories260k.jinja',
        ),
        optimizer=OptimizerSection(learning_rate=5e-4, warmup_steps=20, schedule_steps=200),
        checkpoint=CheckpointSection(interval=100),
    )
