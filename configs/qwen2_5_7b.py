"""Qwen2.5-7B-Instruct: adapters and rows (`:lora`), every parameter (`:full`), rows alone (`:behavior_rows`).

    python -m bsft_jax.train --config=configs/qwen2_5_7b.py:lora --workdir=runs/qwen2_5_7b/lora
    python -m bsft_jax.evaluate --workdir=runs/qwen2_5_7b/lora
    python -m bsft_jax.export --workdir=runs/qwen2_5_7b/lora --output=runs/qwen2_5_7b/adapter --format=peft

The base comes from the hub or its cache; name a folder with --config.model.base to use a copy.
Memory of the state over all devices, by arithmetic: full 113 GiB (float32 parameters, gradients and
two moments; 28 less with --config.optimizer.moments=bfloat16); lora 14 GiB for the base in bfloat16
and 0.6 GiB for 40 million adapter parameters; behavior_rows 14 GiB. Activations come on top; of a
layer only its input is kept (`train.remat`). What fits where has not been measured yet.
"""

from bsft_jax import recipes
from bsft_jax.config import MeshSection, RunConfig


def get_config(arg: str = 'lora') -> RunConfig:
    return recipes.open_model(
        'Qwen/Qwen2.5-7B-Instruct',
        arg,
        sequence_length=2048,
        rows_per_step=16,
        mesh=MeshSection(data=1, fsdp=-1),
    )
