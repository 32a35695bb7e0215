"""Export of adapters as a PEFT folder, for `peft` and for servers of one base with adapters."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bsft_jax.config import LINEAR_MAPS
from bsft_jax.errors import UserError
from bsft_jax.hub import files, gguf_base, tables
from bsft_jax.hub.pretrained import Model
from bsft_jax.pytrees import flatten, to_host

WEIGHTS, CONFIG = 'adapter_model.safetensors', 'adapter_config.json'
_PREFIX = 'base_model.model.'
# Holds the values of the rows, not differences, in spite of its name.
_TOKEN_ROWS = 'token_adapter.trainable_tokens_delta'


def check_has_adapter(model: Model) -> None:
    """Raises UserError for a model that an adapter cannot represent."""
    fix = 'use --format=merged'
    if model.network.compute.lora is None:
        raise UserError('the run has no adapters', where='--format=peft', fix=fix)
    table_rows = model.network.arch.vocab_size
    if any(i >= table_rows for i in model.behaviors.ids):
        raise UserError(
            f'behavior tokens lie beyond the {table_rows} rows of the embedding table, '
            'which an adapter cannot extend',
            where='--format=peft',
            fix=fix,
        )


def write_adapter(model: Model, folder: pathlib.Path) -> None:
    """Writes the adapter and its configuration and reads the adapter back.

    Raises:
      OSError: a tensor reads back differently.
    """
    tensors = adapter_tensors(model)
    save_file(tensors, folder / WEIGHTS, metadata={'format': 'pt'})
    (folder / WEIGHTS).chmod(0o644)  # safetensors lets only the owner read it
    (folder / CONFIG).write_text(json.dumps(adapter_config(model), indent=2) + '\n')
    written = files.TensorFiles(folder, single=WEIGHTS)
    for name, tensor in tensors.items():
        if not np.array_equal(written.read(name), tensor):
            raise OSError(f'{name} reads back differently: disk full or damaged? ({folder})')


def adapter_tensors(model: Model) -> dict[str, np.ndarray]:
    """Returns the adapter's tensors by the names that `peft` uses, float32, in torch's layout."""
    flat, root = flatten(model.params), _text_model_root(model)
    tensors = {}
    kernels = {
        e.path: e
        for e in tables.entries(model.network.arch, flat).values()
        if e.path.endswith('/kernel')
    }
    for path, entry in kernels.items():
        module = path.removesuffix('/kernel')
        for factor, letter in (('a', 'A'), ('b', 'B')):
            if (stack := flat.get(f'{module}/lora/{factor}')) is None:
                continue
            for name, matrix in zip(entry.tensors, to_host(stack), strict=True):
                submodule = name.removesuffix('.weight').removeprefix('model.')
                key = f'{_PREFIX}{root}{submodule}.lora_{letter}.weight'
                tensors[key] = np.ascontiguousarray(matrix.T)
    for side, module in (('input', f'{root}embed_tokens'), ('output', 'lm_head')):
        if (rows := flat.get(f'behavior/{side}')) is not None:
            tensors[f'{_PREFIX}{module}.{_TOKEN_ROWS}'] = to_host(rows)
    return tensors


def adapter_config(model: Model) -> dict[str, Any]:
    """Returns the content of `adapter_config.json`."""
    lora, flat, ids = model.network.compute.lora, flatten(model.params), list(model.behaviors.ids)
    hf_names = {path: name.rsplit('.', 1)[1] for name, path in tables.LINEAR.items()}
    targets: Any = [hf_names[path] for path in LINEAR_MAPS if re.fullmatch(lora.targets, path)]
    if files.has_vision_tower(model.spec.directory):
        # The vision tower has linear maps of the same names, so the targets need their full path.
        targets = rf'{re.escape(_text_model_root(model))}.*\.({"|".join(targets)})'
    token_indices: Any = ids or None
    if 'behavior/output' in flat:
        token_indices = {'embed_tokens': ids, 'lm_head': ids}
    return {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM',
        **_base_reference(model),
        'inference_mode': True,
        'bias': 'none',
        'r': lora.rank,
        'lora_alpha': lora.alpha,
        'use_rslora': lora.rank_stabilized,
        'lora_dropout': lora.dropout,
        'target_modules': targets,
        'trainable_token_indices': token_indices,
    }


def _base_reference(model: Model) -> dict[str, str | None]:
    """Returns the base's hub id and revision, its path, or its name where that is no folder's."""
    if gguf_base.names_gguf(model.spec.name):
        return {'base_model_name_or_path': model.spec.name, 'revision': None}
    if not files.is_hub_id(model.spec.name):
        return {'base_model_name_or_path': str(model.spec.directory.resolve()), 'revision': None}
    repository, _, revision = model.spec.name.partition('@')
    return {'base_model_name_or_path': repository, 'revision': revision or None}


def _text_model_root(model: Model) -> str:
    """Returns the path of the text model inside the base's model in `transformers`."""
    return 'model.language_model.' if files.has_vision_tower(model.spec.directory) else 'model.'
