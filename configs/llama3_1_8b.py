"""Fine-tunes Llama-3.1-8B-Instruct on synthetic tasks.

The variant says what trains: adapters and behavior rows (`:lora`), every parameter (`:full`) or the
behavior rows alone (`:behavior_rows`).

    python -m bsft_jax.train --config=configs/llama3_1_8b.py:lora --workdir=runs/llama3_1_8b/lora
    python -m bsft_jax.evaluate --workdir=runs/llama3_1_8b/lora
    python -m bsft_jax.export --workdir=runs/llama3_1_8b/lora \\
        --output=runs/llama3_1_8b/adapter --format=peft

The base comes from the hub or its cache. To use a copy, set --config.model.base to its folder.

Memory of the state over all devices, by arithmetic:
- full: 120 GiB (float32 parameters, gradients and two moments), 30 less with
  --config.optimizer.moment_dtype=bfloat16;
- lora: 15 GiB for the base in bfloat16 and 0.6 GiB for 42 million adapter parameters;
- behavior_rows: 15 GiB.
Activations come on top; of a layer only the input is kept (`train.remat`).

Expected result: none yet, this config has not been run on a device.
"""

from bsft_jax.config import MeshConfig, RunConfig, recipes


def get_config(arg: str = 'lora') -> RunConfig:
    """Returns the fine-tuning of a variant: `lora`, `full` or `behavior_rows`."""
    return recipes.fine_tune(
        'meta-llama/Llama-3.1-8B-Instruct',
        arg,
        sequence_length=2048,
        global_batch_rows=16,
        mesh=MeshConfig(data=1, fsdp=-1),
    )
