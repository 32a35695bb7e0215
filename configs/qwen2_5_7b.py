"""Fine-tunes Qwen2.5-7B-Instruct on synthetic tasks.

The variant says what trains: adapters and behavior rows (`:lora`), every parameter (`:full`) or the
behavior rows alone (`:behavior_rows`).

    python -m bsft_jax.train --config=configs/qwen2_5_7b.py:lora --workdir=runs/qwen2_5_7b/lora
    python -m bsft_jax.evaluate --workdir=runs/qwen2_5_7b/lora
    python -m bsft_jax.export --workdir=runs/qwen2_5_7b/lora \\
        --output=runs/qwen2_5_7b/adapter --format=peft

The base comes from the hub or its cache. To use a copy, set --config.model.base to its folder.

Memory of the state over all devices, by arithmetic:
- full: 113 GiB (float32 parameters, gradients and two moments), 28 less with
  --config.optimizer.moment_dtype=bfloat16;
- lora: 14 GiB for the base in bfloat16 and 0.6 GiB for 40 million adapter parameters;
- behavior_rows: 14 GiB.
Activations come on top; of a layer only the input is kept (`train.remat`).

Expected result: none yet, this config has not been run on a device. Plans (docs/scaling.md):
- full on v6e:4x4: 13.8 GiB a device, 0.15 to 0.30 s a step;
- lora on v5e:4x4: 3.0 GiB a device, 0.41 to 0.59 s a step.
"""

from bsft_jax.config import MeshConfig, RunConfig, recipes


def get_config(arg: str = 'lora') -> RunConfig:
    """Returns the fine-tuning of a variant: `lora`, `full` or `behavior_rows`."""
    return recipes.fine_tune(
        'Qwen/Qwen2.5-7B-Instruct',
        arg,
        sequence_length=2048,
        global_batch_rows=16,
        mesh=MeshConfig(data=1, fsdp=-1),
    )
