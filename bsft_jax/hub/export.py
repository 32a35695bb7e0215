"""A model as a plain Hugging Face directory, written beside its place, verified, then moved there."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from bsft_jax.errors import UserError
from bsft_jax.hub import tables
from bsft_jax.hub.files import INDEX, SINGLE, TensorFiles
from bsft_jax.hub.model import Model
from bsft_jax.trees import flatten

SHARD_BYTES = 5 * 2**30
_DTYPES = {'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}


def _with_rows(table: np.ndarray, rows: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    """The table with the behavior rows at their ids, longer only where an id lies behind its end."""
    grown = max(0, max(ids) + 1 - len(table))
    table = np.pad(table, ((0, grown), (0, 0)))
    table[list(ids)] = rows
    return table


def _tensors(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the checkpoint by its Hugging Face name, float32, in torch's layout."""
    flat, arch = flatten(model.params), model.network.arch
    ids = model.behaviors.ids
    for path, entry in tables.entries(arch, flat).items():
        value = np.asarray(flat[path])
        for i, name in enumerate(entry.tensors):
            tensor = value[i] if entry.stacked else value
            tensor = tensor.T if entry.transpose else tensor
            if ids and path in ('embed/table', 'head/kernel'):
                rows = flat['behavior/input' if path == 'embed/table' else 'behavior/output']
                tensor = _with_rows(tensor, np.asarray(rows), ids)
            yield name, np.ascontiguousarray(tensor)


def _shards(model: Model, dtype: np.dtype) -> Iterator[dict[str, np.ndarray]]:
    shard, size = {}, 0
    for name, tensor in _tensors(model):
        tensor = tensor.astype(dtype)
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _write_weights(model: Model, directory: pathlib.Path, dtype: np.dtype) -> None:
    temporary, weight_map, total = [], {}, 0
    for i, shard in enumerate(_shards(model, dtype)):
        path = directory / f'shard-{i}.safetensors'
        save_file(shard, path, metadata={'format': 'pt'})
        path.chmod(0o644)  # safetensors leaves it to its owner alone
        temporary.append((path, list(shard)))
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(temporary) == 1:
        os.replace(temporary[0][0], directory / SINGLE)
        return
    for i, (path, names) in enumerate(temporary):
        file = f'model-{i + 1:05d}-of-{len(temporary):05d}.safetensors'
        os.replace(path, directory / file)
        weight_map.update(dict.fromkeys(names, file))
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _config(model: Model, dtype: str) -> dict:
    config = {k: v for k, v in model.base.hf_config.items() if k not in ('torch_dtype', 'dtype', 'bsft')}
    config['dtype'] = dtype
    behaviors = model.behaviors
    if behaviors.ids:
        config['vocab_size'] = max(config['vocab_size'], max(behaviors.ids) + 1)
    template = model.tokenizer.chat_template or ''
    tokens = {b.name: {'token': b.token, 'id': i} for b, i in zip(behaviors.rows, behaviors.ids, strict=True)}
    config['bsft'] = {
        'form': behaviors.form,
        'behaviors': [
            {'name': b.name, **tokens.get(b.name, {}), 'level': b.level, 'description': b.description}
            for b in behaviors.behaviors
        ],
        'heads': [
            {'text': text, 'ids': list(head)}
            for text, head in zip(behaviors.head_texts, behaviors.heads, strict=True)
        ],
        'answer_format': model.answer_format,
        'calibration': None,
        'dial': 0.0,
        'template_sha256': hashlib.sha256(template.encode()).hexdigest(),
    }
    return config


def _verify(model: Model, directory: pathlib.Path, dtype: np.dtype) -> None:
    from bsft_jax.data.tokenizer import load_tokenizer

    files = TensorFiles(directory)
    for name, tensor in _tensors(model):
        if not np.array_equal(files.read(name), tensor.astype(dtype)):
            raise OSError(f'{name} was not written as it is: disk full or damaged? ({directory})')
    tokenizer = load_tokenizer(directory)
    for text, head in zip(model.behaviors.head_texts, model.behaviors.heads, strict=True):
        if tokenizer.encode(text, add_special_tokens=False) != list(head):
            raise OSError(f'the exported tokenizer does not write {text!r} as {list(head)}')


def write(model: Model, output: str | pathlib.Path, *, stop_id: int) -> pathlib.Path:
    """Writes the model as a Hugging Face checkpoint and returns its directory.

    Weights keep the dtype of the base checkpoint's files (float32 for a model from random
    weights). The directory appears only when it is whole and has been read back.

    Raises UserError when `output` exists and is not empty.
    """
    output = pathlib.Path(output)
    if output.exists() and any(output.iterdir()):
        raise UserError('exists and is not empty', where=f'--output={output}', fix='name a new directory')
    try:
        files = TensorFiles(model.base.directory)
        stored = _DTYPES.get(files.dtype('model.embed_tokens.weight'), 'float32')
    except UserError:
        stored = 'float32'
    dtype = jnp.dtype(stored)
    partial = output.with_name(f'{output.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_weights(model, partial, dtype)
    (partial / 'config.json').write_text(json.dumps(_config(model, stored), indent=2) + '\n')
    hf = model.base.hf_config
    generation = {key: hf[key] for key in ('bos_token_id', 'pad_token_id') if hf.get(key) is not None}
    generation['eos_token_id'] = stop_id
    (partial / 'generation_config.json').write_text(json.dumps(generation, indent=2) + '\n')
    model.tokenizer.save_pretrained(str(partial))
    _verify(model, partial, dtype)
    if output.exists():
        output.rmdir()
    os.replace(partial, output)
    return output
