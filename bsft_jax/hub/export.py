"""Export of a model as a plain Hugging Face directory or as a PEFT adapter.

A folder is written under another name, read back, and only then renamed.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bsft_jax import folders, places
from bsft_jax.config import LoraConfig
from bsft_jax.data.tokenizer import load_tokenizer, template_texts
from bsft_jax.hub import ends, files, peft, tables
from bsft_jax.hub.files import INDEX, SINGLE, TensorFiles
from bsft_jax.hub.pretrained import Model
from bsft_jax.models import lora
from bsft_jax.pytrees import flatten, to_host

Dtypes = Mapping[str, np.dtype]

SHARD_BYTES = 5 * 2**30
# Fields of the base's `config.json` that say nothing of the export: its weights are plain numbers,
# and no code is copied.
_NOT_EXPORTED = ('torch_dtype', 'dtype', 'bsft', 'quantization_config', 'auto_map')


def write_export(
    model: Model,
    output: str | pathlib.Path,
    *,
    stop_id: int,
    format: str = 'merged',
    dtype: str = 'float32',
    calibration: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the model as a Hugging Face checkpoint or as an adapter for `peft`.

    Each merged tensor keeps the dtype that it has in the base's files (float32 where there are
    none). Adapters of a quantized base are added to the kernels of the base's files. The folder
    appears only once it is complete and has been read back. With several processes all must call
    this; only the first writes.

    Args:
      model: the model to write.
      output: a new or empty folder.
      stop_id: id that ends an answer, for `generation_config.json`.
      format: `merged` or `peft`.
      dtype: dtype of an adapter's tensors, `float32` or `bfloat16`.
      calibration: content of `calibration.json`, if the model is calibrated.

    Returns:
      `output`.

    Raises:
      UserError: `output` exists and is not empty, or an adapter cannot represent the model.
    """
    output = pathlib.Path(output)
    places.check_new_folder(output, 'output')
    if format == 'peft':
        peft.check_has_adapter(model)
    if jax.process_index() == 0:
        bsft = _bsft_entry(model, calibration)
        with folders.whole_folder(output) as folder, _as_system_errors():
            if format == 'peft':
                peft.write_adapter(model, folder, bsft, jnp.dtype(dtype))
            else:
                _write_merged(model, folder, stop_id, bsft)
            _write_tokenizer(model, folder)
            _verify_tokenizer(model, folder)
            if model.trained_on is not None:
                model.trained_on.write(folder)
    elif format == 'peft':
        # The other processes take part in every gather that the first one runs.
        peft.adapter_tensors(model)
    else:
        for _ in range(2):  # gathered for writing, and again for verifying
            collections.deque(_checkpoint_tensors(model), maxlen=0)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('export')
    return output


@contextlib.contextmanager
def _as_system_errors() -> Iterator[None]:
    """Raises the operating system's errors, which safetensors hides in its own, as OSError."""
    try:
        yield
    except SafetensorError as error:
        if code := re.search(r'\(os error (\d+)\)', str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        raise


def _write_merged(
    model: Model, folder: pathlib.Path, stop_id: int, bsft: Mapping[str, Any]
) -> None:
    dtypes = _stored_dtypes(model)
    _write_weights(model, folder, dtypes)
    config = _exported_config(model, dtypes[files.TABLE].name) | {'bsft': bsft}
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    hf_config = model.spec.hf_config
    generation = {
        key: hf_config[key]
        for key in ('bos_token_id', 'pad_token_id')
        if hf_config.get(key) is not None
    }
    # The end of a turn comes first; the base's own ends go on to end a text.
    own = ends.end_ids(model.spec.directory, hf_config)
    others = [i for i in own if i != stop_id]
    generation['eos_token_id'] = [stop_id, *others] if others else stop_id
    (folder / ends.FILE).write_text(json.dumps(generation, indent=2) + '\n')
    _verify_weights(model, folder, dtypes)


def _stored_dtypes(model: Model) -> Dtypes:
    """Returns the dtype of each tensor in the base's files; that of the table for others."""
    stored = files.stored_dtypes(model.spec.directory)
    default = jnp.dtype(stored.get(files.TABLE, 'float32'))
    known = {name: jnp.dtype(dtype) for name, dtype in stored.items()}
    return collections.defaultdict(lambda: default, known)


def _checkpoint_tensors(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every tensor of the checkpoint with its Hugging Face name, float32, in torch's layout.

    Adapters are added to their kernels, behavior rows replace rows of the tables. Beside a
    quantized base all other parameters are frozen, and the base's files hold them exactly.
    """
    flat, arch = flatten(model.params), model.network.arch
    ids, compute = model.behaviors.ids, model.network.compute
    base = files.open_tensors(model.spec.directory) if compute.quantized else None
    for path, entry in tables.entries(arch, flat).items():
        for i, name in enumerate(entry.tensors):
            layer = i if entry.stacked else None
            if base is None:
                value = _of_layer(flat, path, layer)
            else:
                value = base.read(name).T if entry.transpose else base.read(name)
            tensor = _merged_parameter(value, flat, path, layer, compute.lora).astype(np.float32)
            tensor = tensor.T if entry.transpose else tensor
            if ids and path in ('embed/table', 'lm_head/kernel'):
                rows = flat['behavior/input' if path == 'embed/table' else 'behavior/output']
                tensor = _with_behavior_rows(tensor, to_host(rows), ids)
            yield name, np.ascontiguousarray(tensor)


def _of_layer(flat: dict[str, jax.Array], path: str, layer: int | None) -> jax.Array:
    return flat[path] if layer is None else flat[path][layer]


def _merged_parameter(
    value: jax.Array | np.ndarray,
    flat: dict[str, jax.Array],
    path: str,
    layer: int | None,
    lora_config: LoraConfig | None,
) -> np.ndarray:
    """Returns a parameter as a checkpoint holds it: with its adapter added, if it has one.

    Args:
      value: the parameter, of one layer.
      flat: all parameters by path.
      path: path of the parameter.
      layer: index of the layer, None for a parameter that is not stacked.
      lora_config: configuration of the adapters.
    """
    module = path.removesuffix('/kernel')
    if f'{module}/lora/a' in flat:
        a_Ir, b_rO = (_of_layer(flat, f'{module}/lora/{factor}', layer) for factor in 'ab')
        value = lora.merged(value, a_Ir, b_rO, lora_config)
    return value if isinstance(value, np.ndarray) else to_host(value)


def _with_behavior_rows(table: np.ndarray, rows: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    """Returns the table with the behavior rows at their ids, lengthened for ids beyond its end."""
    num_new = max(0, max(ids) + 1 - len(table))
    table = np.pad(table, ((0, num_new), (0, 0)))
    table[list(ids)] = rows
    return table


def _shards(model: Model, dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
    """Yields the tensors of the checkpoint in groups of at most `SHARD_BYTES`."""
    shard, size = {}, 0
    for name, tensor in _checkpoint_tensors(model):
        tensor = tensor.astype(dtypes[name])
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _write_weights(model: Model, directory: pathlib.Path, dtypes: Dtypes) -> None:
    temporary, weight_map, total = [], {}, 0
    for i, shard in enumerate(_shards(model, dtypes)):
        path = directory / f'shard-{i}.safetensors'
        save_file(shard, path, metadata={'format': 'pt'})
        path.chmod(0o644)  # safetensors lets only the owner read it
        temporary.append((path, list(shard)))
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(temporary) == 1:
        os.replace(temporary[0][0], directory / SINGLE)
        return

    # The final names state the number of shards, which is known only now.
    for i, (path, names) in enumerate(temporary):
        file = f'model-{i + 1:05d}-of-{len(temporary):05d}.safetensors'
        os.replace(path, directory / file)
        weight_map.update(dict.fromkeys(names, file))
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _verify_weights(model: Model, directory: pathlib.Path, dtypes: Dtypes) -> None:
    """Raises OSError unless the files hold exactly the tensors of the model."""
    written = TensorFiles(directory)
    for name, tensor in _checkpoint_tensors(model):
        if not np.array_equal(written.read(name), tensor.astype(dtypes[name])):
            raise OSError(f'{name} reads back differently: disk full or damaged? ({directory})')


def _exported_config(model: Model, dtype: str) -> dict[str, Any]:
    """Returns the base's `config.json` with the new dtype and vocabulary size.

    The dtype has two names, since readers of before transformers 4.56 know the older one only.
    """
    config = {key: value for key, value in model.spec.hf_config.items() if key not in _NOT_EXPORTED}
    config |= {'dtype': dtype, 'torch_dtype': dtype}
    config['tie_word_embeddings'] = model.network.arch.tied
    behaviors = model.behaviors
    if behaviors.ids:
        config['vocab_size'] = max(config['vocab_size'], max(behaviors.ids) + 1)
    return config


def _bsft_entry(model: Model, calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what an export says of behaviors, their tokens and how answers are written.

    `logit_bias` is the calibrated dial for servers, `{id: bias}`: what it adds to the logit of each
    behavior token.
    """
    behaviors = model.behaviors
    template, *_ = template_texts(model.tokenizer)
    tokens = {
        b.name: {'token': b.token, 'id': i}
        for b, i in zip(behaviors.token_behaviors, behaviors.ids, strict=True)
    }
    dial = 0.0 if calibration is None else calibration['dial']
    logit_bias = None
    if calibration is not None and behaviors.prefix_kind == 'tokens':
        biases = (dial * position for position in behaviors.positions)
        logit_bias = dict(zip(map(str, behaviors.ids), biases, strict=True))
    return {
        'prefix_kind': behaviors.prefix_kind,
        'behaviors': [
            {
                'name': b.name,
                **tokens.get(b.name, {}),
                'level': b.level,
                'description': b.description,
            }
            for b in behaviors.behaviors
        ],
        'prefixes': [
            {'text': text, 'ids': list(prefix)}
            for text, prefix in zip(behaviors.prefix_texts, behaviors.prefixes, strict=True)
        ],
        'answer_format': model.answer_format,
        'step': model.step,
        'calibration': calibration,
        'dial': dial,
        'logit_bias': logit_bias,
        'template_sha256': hashlib.sha256(template.encode()).hexdigest(),
    }


def _write_tokenizer(model: Model, folder: pathlib.Path) -> None:
    """Writes the tokenizer in a layout that transformers 4, which servers still use, reads too.

    Two fields of `tokenizer_config.json` have other names there.
    """
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
    """Raises OSError unless the written tokenizer encodes every prefix as the model's does."""
    tokenizer = load_tokenizer(directory)
    behaviors = model.behaviors
    for text, prefix in zip(behaviors.prefix_texts, behaviors.prefixes, strict=True):
        if tokenizer.encode(text, add_special_tokens=False) != list(prefix):
            raise OSError(f'the exported tokenizer does not encode {text!r} as {list(prefix)}')
