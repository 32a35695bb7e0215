"""Fine-tunes Qwen2.5-0.5B-Instruct on synthetic tasks.

The variant says what trains: adapters and behavior rows (`:lora`), every parameter (`:full`) or the
behavior rows alone (`:behavior_rows`).

    python -m bsft_jax.train --config=configs/qwen2_5_0_5b.py:lora --workdir=runs/qwen2_5_0_5b/lora
    python -m bsft_jax.evaluate --workdir=runs/qwen2_5_0_5b/lora
    python -m bsft_jax.export --workdir=runs/qwen2_5_0_5b/lora \\
        --output=runs/qwen2_5_0_5b/adapter --format=peft

The base comes from the hub or its cache. To use a copy, set --config.model.base to its folder.

Memory of the state over all devices, by arithmetic:
- full: 7 GiB (float32 parameters, gradients and two moments);
- lora: 1 GiB for the base in bfloat16 and 0.1 GiB for 9 million adapter parameters;
- behavior_rows: 1 GiB.
Activations come on top; of a layer only the input is kept (`train.remat`).

Expected result: none yet, this config has not been run on a device.
"""

from bsft_jax.config import MeshConfig, RunConfig, recipes


def get_config(arg: str = 'lora') -> RunConfig:
    """Returns the fine-tuning of a variant: `lora`, `full` or `behavior_rows`."""
    return recipes.fine_tune(
        'Qwen/Qwen2.5-0.5B-Instruct',
        arg,
        sequence_length=1024,
        global_batch_rows=32,
        mesh=MeshConfig(data=-1),
    )
