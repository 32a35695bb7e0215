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
from bsft_jax.hub import files, tables
from bsft_jax.hub.adapters import BEHAVIORS, CONFIG, PREFIX, WEIGHTS, text_model_root
from bsft_jax.hub.pretrained import Model
from bsft_jax.pytrees import flatten, to_host


def check_has_adapter(model: Model) -> None:
    """Raises UserError for a model that an adapter cannot represent."""
    if model.network.compute.lora is None:
        raise UserError('the run has no adapters', where='--format=peft', fix='use --format=merged')


def needed_rows(model: Model) -> int:
    """Returns the rows that `peft` needs in the base's table; 0 where it has as many."""
    rows = max(model.behaviors.ids, default=-1) + 1
    return rows if rows > model.network.arch.vocab_size else 0


def write_adapter(
    model: Model, folder: pathlib.Path, bsft: dict[str, Any], dtype: np.dtype
) -> None:
    """Writes the adapter, its configuration and its behaviors, and reads the adapter back.

    Args:
      model: the model.
      folder: where to write.
      bsft: content of `bsft.json`.
      dtype: dtype of the adapter's tensors.

    Raises:
      OSError: a tensor reads back differently.
    """
    tensors = {name: tensor.astype(dtype) for name, tensor in adapter_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={'format': 'pt'})
    (folder / WEIGHTS).chmod(0o644)  # safetensors lets only the owner read it
    for file, content in ((CONFIG, adapter_config(model)), (BEHAVIORS, bsft)):
        (folder / file).write_text(json.dumps(content, indent=2) + '\n')
    written = files.TensorFiles(folder, single=WEIGHTS)
    for name, tensor in tensors.items():
        if not np.array_equal(written.read(name), tensor):
            raise OSError(f'{name} reads back differently: disk full or damaged? ({folder})')


def adapter_tensors(model: Model) -> dict[str, np.ndarray]:
    """Returns the adapter's tensors by the names that `peft` uses, float32, in torch's layout."""
    flat, root = flatten(model.params), text_model_root(model.spec.directory)
    tensors = {}
    for path, entry in tables.adapter_entries(model.network.arch, flat).items():
        stack = to_host(flat[path])
        for name, matrix in zip(entry.tensors, stack if entry.stacked else [stack], strict=True):
            key = PREFIX + re.sub(r'^model\.', root, name)
            tensors[key] = np.ascontiguousarray(matrix.T if entry.transpose else matrix)
    return tensors


def adapter_config(model: Model) -> dict[str, Any]:
    """Returns the content of `adapter_config.json`."""
    lora, flat, ids = model.network.compute.lora, flatten(model.params), list(model.behaviors.ids)
    hf_names = {path: name.rsplit('.', 1)[1] for name, path in tables.LINEAR.items()}
    targets: Any = [hf_names[path] for path in LINEAR_MAPS if re.fullmatch(lora.targets, path)]
    if files.has_vision_tower(model.spec.directory):
        # The vision tower has linear maps of the same names, so the targets need their full path.
        targets = rf'{re.escape(text_model_root(model.spec.directory))}.*\.({"|".join(targets)})'
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
    """Returns the base's hub id and revision, its path, or the name of a bundled model."""
    adapter = model.spec.adapter
    name, revision = model.spec.name if adapter is None else adapter.base, ''
    path = pathlib.Path(name).expanduser()
    if files.is_hub_id(name):
        name, _, revision = name.partition('@')
    elif path.exists():
        name = str(path.resolve())
    return {'base_model_name_or_path': name, 'revision': revision or None}
