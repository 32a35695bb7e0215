"""Fine-tunes Qwen2.5-72B-Instruct on synthetic tasks.

The variant says what trains: adapters and behavior rows (`:lora`), every parameter (`:full`) or the
behavior rows alone (`:behavior_rows`).

    python -m bsft_jax.train --config=configs/qwen2_5_72b.py:lora --workdir=runs/qwen2_5_72b/lora
    python -m bsft_jax.evaluate --workdir=runs/qwen2_5_72b/lora
    python -m bsft_jax.export --workdir=runs/qwen2_5_72b/lora \\
        --output=runs/qwen2_5_72b/adapter --format=peft

The base comes from the hub or its cache. To use a copy, set --config.model.base to its folder.

Memory of the state over all devices, by arithmetic:
- full: 1,083 GiB (float32 parameters, gradients and two moments), 271 less with
  --config.optimizer.moment_dtype=bfloat16;
- lora: 135 GiB for the base in bfloat16 and 3.1 GiB for 211 million adapter parameters;
- behavior_rows: 135 GiB.
Activations come on top; of a layer only the input is kept (`train.remat`).

Expected result: none yet, this config has not been run on a device. Plans (docs/scaling.md):
- full on v5p:4x4x4: 36.3 GiB a device, 2.40 to 4.47 s a step;
- full on v5p:2x2x2: 283.3 GiB a device, which does not fit.
"""

from bsft_jax.config import MeshConfig, RunConfig, recipes


def get_config(arg: str = 'lora') -> RunConfig:
    """Returns the fine-tuning of a variant: `lora`, `full` or `behavior_rows`."""
    return recipes.fine_tune(
        'Qwen/Qwen2.5-72B-Instruct',
        arg,
        sequence_length=2048,
        global_batch_rows=64,
        mesh=MeshConfig(data=1, fsdp=-1),
    )
