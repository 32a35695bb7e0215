"""A model as a plain Hugging Face directory or a PEFT adapter, written beside its place, verified, then moved."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from bsft_jax.errors import UserError
from bsft_jax.hub import files, peft, tables
from bsft_jax.hub.files import INDEX, SINGLE, TensorFiles
from bsft_jax.hub.model import Model
from bsft_jax.models import linear, lora
from bsft_jax.models.lora import LoraSpec
from bsft_jax.trees import fetch, flatten

SHARD_BYTES = 5 * 2**30


def _with_rows(table: np.ndarray, rows: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    """The table with the behavior rows at their ids, longer only where an id lies behind its end."""
    grown = max(0, max(ids) + 1 - len(table))
    table = np.pad(table, ((0, grown), (0, 0)))
    table[list(ids)] = rows
    return table


def _tensors(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the checkpoint by its Hugging Face name, float32, in torch's layout.

    Adapters are added to their kernels.
    """
    flat, arch = flatten(model.params), model.network.arch
    ids = model.behaviors.ids
    for path, entry in tables.entries(arch, flat).items():
        for i, name in enumerate(entry.tensors):
            layer = i if entry.stacked else None
            tensor = fetch(_plain(flat, path, layer, model.network.lora)).astype(np.float32)
            tensor = tensor.T if entry.transpose else tensor
            if ids and path in ('embed/table', 'head/kernel'):
                rows = flat['behavior/input' if path == 'embed/table' else 'behavior/output']
                tensor = _with_rows(tensor, fetch(rows), ids)
            yield name, np.ascontiguousarray(tensor)


def _plain(flat: dict[str, jax.Array], path: str, layer: int | None, spec: LoraSpec | None) -> jax.Array:
    """A parameter (of one layer, where it is stacked) as a checkpoint holds it: not quantized, with its adapter."""

    def part(path: str) -> jax.Array:
        return flat[path] if layer is None else flat[path][layer]

    value, module = part(path), path.removesuffix('/kernel')
    if f'{path}_scale' in flat:
        value = linear.dequantize(value, part(f'{path}_scale'))
    if f'{module}/lora/a' in flat:
        value = lora.merged(value, part(f'{module}/lora/a'), part(f'{module}/lora/b'), spec)
    return value


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


def _verify_weights(model: Model, directory: pathlib.Path, dtype: np.dtype) -> None:
    written = TensorFiles(directory)
    for name, tensor in _tensors(model):
        if not np.array_equal(written.read(name), tensor.astype(dtype)):
            raise OSError(f'{name} was not written as it is: disk full or damaged? ({directory})')


def _write_tokenizer(model: Model, folder: pathlib.Path) -> None:
    """The tokenizer as transformers 4 reads it too, which servers still use: other names for two fields."""
    model.tokenizer.save_pretrained(str(folder))
    path = folder / 'tokenizer_config.json'
    config = json.loads(path.read_text(encoding='utf-8'))
    for key in ('backend', 'is_local', 'local_files_only'):
        config.pop(key, None)
    if special := config.pop('extra_special_tokens', None):
        config['additional_special_tokens'] = special
    config['tokenizer_class'] = 'PreTrainedTokenizerFast'
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def _verify_tokenizer(model: Model, directory: pathlib.Path) -> None:
    from bsft_jax.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(directory)
    for text, head in zip(model.behaviors.head_texts, model.behaviors.heads, strict=True):
        if tokenizer.encode(text, add_special_tokens=False) != list(head):
            raise OSError(f'the exported tokenizer does not write {text!r} as {list(head)}')


def _write_merged(model: Model, folder: pathlib.Path, stop_id: int) -> None:
    stored = files.stored_dtype(model.base.directory)
    _write_weights(model, folder, jnp.dtype(stored))
    (folder / 'config.json').write_text(json.dumps(_config(model, stored), indent=2) + '\n')
    hf = model.base.hf_config
    generation = {key: hf[key] for key in ('bos_token_id', 'pad_token_id') if hf.get(key) is not None}
    generation['eos_token_id'] = stop_id
    (folder / 'generation_config.json').write_text(json.dumps(generation, indent=2) + '\n')
    _verify_weights(model, folder, jnp.dtype(stored))


def write(model: Model, output: str | pathlib.Path, *, stop_id: int, form: str = 'merged') -> pathlib.Path:
    """Writes the model as a Hugging Face checkpoint, or its adapter for `peft`, and returns the folder.

    Merged weights keep the dtype of the base's files (float32 where it has none); an adapter is float32. The folder
    appears only when it is whole and has been read back. With several processes all must call this; the
    first alone writes.

    Raises UserError when `output` exists and is not empty, or no adapter stands for the model.
    """
    output = pathlib.Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError('exists and is not empty', where=f'--output={output}', fix='name a new directory')
    if form == 'peft':
        peft.check(model)
    if jax.process_index() == 0:
        _write_whole(model, output.resolve(), stop_id, form)
    elif form == 'peft':
        peft.tensors(model)
    else:
        for _ in range(2):  # gathered for writing, and again for verifying
            collections.deque(_tensors(model), maxlen=0)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('export')
    return output


def _write_whole(model: Model, output: pathlib.Path, stop_id: int, form: str) -> None:
    partial = output.with_name(f'{output.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if form == 'peft':
        peft.write(model, partial)
    else:
        _write_merged(model, partial, stop_id)
    _write_tokenizer(model, partial)
    _verify_tokenizer(model, partial)
    if output.exists():
        output.rmdir()
    os.replace(partial, output)
