"""Pretrains a base like `tiny-clinical` from random weights, on text about simulated cases.

    python -m bsft_jax.train_tokenizer --source=synthetic_text:6000 --source=synthetic:300 \\
        --source=synthetic_lists:2000 --vocab_size=1500 --output=runs/tiny/blank
    for stage in lists sheets scenes; do
        python -m bsft_jax.train --config=configs/tiny_pretrain.py:$stage --workdir=runs/tiny/$stage
        python -m bsft_jax.export --workdir=runs/tiny/$stage --output=runs/tiny/after-$stage
    done
    python -m benchmarks.gates --model=runs/tiny/after-scenes

The conversations ask in free form and come from a seed domain of their own. They hold no options,
no request of the tasks, no behavior token and no test case
(`bsft_jax/behaviorbench/pretraining/conversations.py`).

Expected result: none yet, the stages have not been run to their end. docs/results.md has the gates
of a base pretrained in a similar order; `bsft_jax/assets/tiny-clinical` was made differently, as
its README says.
"""

from bsft_jax.config import CheckpointConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from bsft_jax.errors import UserError

# Stage → (model, source, steps, learning rate at the end over its peak).
STAGES = {
    'lists': (
        ModelConfig(base='runs/tiny/blank', init='random'),
        'synthetic_lists:40000',
        1000,
        1.0,
    ),
    'sheets': (ModelConfig(base='runs/tiny/after-lists'), 'synthetic_sheets:40000', 1700, 1.0),
    'scenes': (ModelConfig(base='runs/tiny/after-sheets'), 'synthetic_text:160000', 6000, 0.1),
}


def get_config(arg: str = 'lists') -> RunConfig:
    """Returns the training of a stage; raises UserError for an unknown one."""
    if arg not in STAGES:
        raise UserError(f'{arg!r} is not one of {", ".join(STAGES)}', where='--config=FILE:STAGE')
    model, source, steps, end_lr_ratio = STAGES[arg]
    length = 128 if arg == 'lists' else 160
    return RunConfig(
        arm='general_sft',
        model=model,
        data=DataConfig(
            source=source,
            sequence_length=length,
            global_batch_rows=2592 // length,
            answer_format='text',
            train_on='turns',
            max_dropped_fraction=0.1,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=100,
            schedule_steps=steps,
            end_lr_ratio=end_lr_ratio,
            weight_decay=0.05,
        ),
        checkpoint=CheckpointConfig(interval=500, keep=3),
    )
