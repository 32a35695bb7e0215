"""Adapters as a PEFT folder, for `peft` and for servers that load adapters beside one base model."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bsft_jax.config import LINEAR_MAPS
from bsft_jax.errors import UserError
from bsft_jax.hub import files, tables
from bsft_jax.hub.model import Model
from bsft_jax.trees import fetch, flatten

WEIGHTS, CONFIG = 'adapter_model.safetensors', 'adapter_config.json'
_PREFIX = 'base_model.model.'
_ROWS = 'token_adapter.trainable_tokens_delta'  # values of the rows, not differences, whatever its name says


def check(model: Model) -> None:
    """Raises UserError for a model that no adapter stands for."""
    fix = 'use --format=merged'
    if model.network.lora is None:
        raise UserError('the run has no adapters', where='--format=peft', fix=fix)
    rows = model.network.arch.vocab_size
    if any(i >= rows for i in model.behaviors.ids):
        raise UserError(
            f'behavior tokens lie behind the {rows} rows of the table, which an adapter cannot lengthen',
            where='--format=peft',
            fix=fix,
        )


def _place(model: Model) -> str:
    """What the modules of the text model are called behind, in the model that `transformers` makes of the base."""
    return 'model.language_model.' if files.sees_images(model.base.directory) else 'model.'


def tensors(model: Model) -> dict[str, np.ndarray]:
    """The adapter's tensors by the names that `peft` gives them, float32, in torch's layout."""
    flat, found, place = flatten(model.params), {}, _place(model)
    kernels = {
        e.path: e for e in tables.entries(model.network.arch, flat).values() if e.path.endswith('/kernel')
    }
    for path, entry in kernels.items():
        module = path.removesuffix('/kernel')
        for part, letter in (('a', 'A'), ('b', 'B')):
            if (stack := flat.get(f'{module}/lora/{part}')) is None:
                continue
            for name, matrix in zip(entry.tensors, fetch(stack), strict=True):
                inside = name.removesuffix('.weight').removeprefix('model.')
                key = f'{_PREFIX}{place}{inside}.lora_{letter}.weight'
                found[key] = np.ascontiguousarray(matrix.T)
    for side, module in (('input', f'{place}embed_tokens'), ('output', 'lm_head')):
        if (rows := flat.get(f'behavior/{side}')) is not None:
            found[f'{_PREFIX}{module}.{_ROWS}'] = fetch(rows)
    return found


def _base(model: Model) -> dict[str, str | None]:
    """The base by its hub id and revision, or by the path of its folder."""
    if not files.is_hub_id(model.base.name):
        return {'base_model_name_or_path': str(model.base.directory.resolve()), 'revision': None}
    repository, _, revision = model.base.name.partition('@')
    return {'base_model_name_or_path': repository, 'revision': revision or None}


def config(model: Model) -> dict[str, Any]:
    """The content of `adapter_config.json`."""
    spec, flat, ids = model.network.lora, flatten(model.params), list(model.behaviors.ids)
    theirs = {ours: name.rsplit('.', 1)[1] for name, ours in tables.LINEAR.items()}
    targets: Any = [theirs[path] for path in LINEAR_MAPS if re.fullmatch(spec.targets, path)]
    if files.sees_images(model.base.directory):  # which has maps of the same names for what it sees
        targets = rf'{re.escape(_place(model))}.*\.({"|".join(targets)})'
    rows: Any = ids or None
    if 'behavior/output' in flat:
        rows = {'embed_tokens': ids, 'lm_head': ids}
    return {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM',
        **_base(model),
        'inference_mode': True,
        'bias': 'none',
        'r': spec.rank,
        'lora_alpha': spec.alpha,
        'use_rslora': spec.rank_stabilized,
        'lora_dropout': spec.dropout,
        'target_modules': targets,
        'trainable_token_indices': rows,
    }


def write(model: Model, folder: pathlib.Path) -> None:
    """Writes the adapter and reads it back."""
    made = tensors(model)
    save_file(made, folder / WEIGHTS, metadata={'format': 'pt'})
    (folder / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone
    (folder / CONFIG).write_text(json.dumps(config(model), indent=2) + '\n')
    written = files.TensorFiles(folder, single=WEIGHTS)
    for name, tensor in made.items():
        if not np.array_equal(written.read(name), tensor):
            raise OSError(f'{name} was not written as it is: disk full or damaged? ({folder})')
