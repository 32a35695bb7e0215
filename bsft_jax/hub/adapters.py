"""PEFT adapter folders: their configuration, their base, and what else an export writes there.

What an adapter asks for and the decoder does not compute is refused.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.config import LINEAR_MAPS, LoraConfig
from bsft_jax.errors import UserError
from bsft_jax.hub import fields, files, tables
from bsft_jax.hub.files import ADAPTER_CONFIG as CONFIG

WEIGHTS = 'adapter_model.safetensors'
# Holds what a whole checkpoint has in its `config.json` under `bsft`. `peft` warns of fields of its
# own file that it does not know.
BEHAVIORS = 'bsft.json'
# What `peft` writes before the name of every tensor.
PREFIX = 'base_model.model.'

# Fields that change nothing of what an adapter computes, or only together with another field.
_INERT = frozenset(
    {
        'auto_mapping',
        'corda_config',
        'ensure_weight_tying',
        'eva_config',
        'inference_mode',
        'layers_pattern',
        'loftq_config',
        'lora_dropout',
        'lora_ga_config',
        'megatron_core',
        'peft_version',
        'qalora_group_size',
        'runtime_config',
    }
)
# Values of fields that must not have another one. Other ways to initialize change the base.
_ONLY = {
    'peft_type': ('LORA',),
    'task_type': ('CAUSAL_LM', None),
    'bias': ('none',),
    'init_lora_weights': (True, False, None, 'gaussian', 'eva', 'orthogonal'),
}
_READ = frozenset(
    {
        'base_model_name_or_path',
        'revision',
        'r',
        'lora_alpha',
        'use_rslora',
        'target_modules',
        'trainable_token_indices',
    }
)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Describes a PEFT adapter, apart from its base.

    Attributes:
      folder: where its files lie.
      base: name of its base, as `base_model_name_or_path` and `revision` give it.
      lora: rank and scale of its products; `targets` follows from the base, see `lora_config`.
      target_modules: names of linear maps, or a regex for the whole name.
      token_ids: the ids whose rows it holds, by the module of the rows; empty for none.
      bsft: content of `bsft.json`; None without that file.
    """

    folder: pathlib.Path
    base: str
    lora: LoraConfig
    target_modules: tuple[str, ...] | str
    token_ids: Mapping[str, tuple[int, ...]]
    bsft: dict[str, Any] | None

    @property
    def row_ids(self) -> frozenset[int]:
        """Returns all ids whose rows it holds, which may lie beyond the end of its base's table."""
        return frozenset(i for ids in self.token_ids.values() for i in ids)

    @property
    def config_path(self) -> str:
        """Returns the path of its configuration, for error messages."""
        return str(self.folder / CONFIG)


def locate(base: str, *, weights: bool = True) -> tuple[pathlib.Path, Adapter | None]:
    """Returns the directory of the model that `base` names; of an adapter, its base's and itself.

    Args:
      base: as in `files.resolve_directory`.
      weights: whether the weights of a hub repository are needed.

    Raises UserError where there is no model, and for an adapter without its base or that asks for
    something that the decoder does not compute.
    """
    directory = files.resolve_directory(base, weights=weights)
    if not files.is_adapter(directory):
        return directory, None
    adapter = read(directory)
    where = f'{adapter.config_path}: base_model_name_or_path'
    base_directory = files.resolve_directory(adapter.base, weights=weights, where=where)
    if files.is_adapter(base_directory):
        raise UserError(f'{adapter.base} is an adapter itself', where=where)
    return base_directory, adapter


def folders(directory: pathlib.Path, adapter: Adapter | None) -> tuple[pathlib.Path, ...]:
    """Returns the folders that a model comes from, an adapter's before its base's."""
    return (directory,) if adapter is None else (adapter.folder, directory)


def own_tokenizer(adapter: Adapter | None) -> pathlib.Path | None:
    """Returns the folder of the tokenizer that an adapter brings; None where it is its base's."""
    if adapter is not None and (adapter.folder / 'tokenizer.json').is_file():
        return adapter.folder
    return None


def own_template(adapter: Adapter | None) -> str:
    """Returns the chat template's file of an adapter without a tokenizer; '' for none."""
    if adapter is None or own_tokenizer(adapter):
        return ''
    path = adapter.folder / 'chat_template.jinja'
    return str(path) if path.is_file() else ''


def open_weights(folder: pathlib.Path) -> files.TensorFiles:
    """Opens the tensors of an adapter; raises UserError where there are none, or damaged ones."""
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / 'adapter_model.bin').is_file()
        fix = 'convert adapter_model.bin to safetensors; pickles are not opened' if pickled else ''
        raise UserError(f'no {WEIGHTS} in this adapter', where=str(folder), fix=fix)
    return files.TensorFiles(folder, single=WEIGHTS, prefix=PREFIX)


def read(folder: pathlib.Path) -> Adapter:
    """Reads the configuration of an adapter.

    Raises UserError for a damaged one, and for one that asks for something that the decoder does
    not compute.
    """
    path = folder / CONFIG
    config, where = _read_object(path), str(path)
    for field, value in config.items():
        allowed = _ONLY.get(field, (None, False, [], {}, ''))
        if field not in _READ | _INERT and value not in allowed:
            raise UserError(f'{field}={fields.shorten(value)} is not supported', where=where)
    if 'peft_type' not in config:
        raise UserError("'peft_type' is missing", where=where)
    base, revision = config.get('base_model_name_or_path'), config.get('revision')
    if not isinstance(base, str) or not base:
        message = f'base_model_name_or_path={fields.shorten(base)} names no base'
        raise UserError(message, where=where)
    if files.is_hub_id(base) and isinstance(revision, str) and revision:
        base = f'{base}@{revision}'
    path = folder / BEHAVIORS
    return Adapter(
        folder,
        base,
        _read_lora(config, where),
        _read_targets(config.get('target_modules'), where),
        _read_token_ids(config.get('trainable_token_indices'), where),
        _read_object(path) if path.is_file() else None,
    )


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'cannot be read ({error})', where=str(path)) from error
    if not isinstance(content, dict):
        raise UserError('is not a JSON object', where=str(path))
    return content


def _read_lora(config: Mapping[str, Any], where: str) -> LoraConfig:
    """Returns rank and scale; the default values are those of `peft`."""
    rank, alpha = config.get('r', 8), config.get('lora_alpha', 8)
    stabilized = config.get('use_rslora') or False
    if type(rank) is not int or not 0 < rank < 2**16:
        raise UserError(f'r={fields.shorten(rank)} is no rank', where=where)
    if not fields.is_number(alpha):
        raise UserError(f'lora_alpha={fields.shorten(alpha)} is no number', where=where)
    if not isinstance(stabilized, bool):
        message = f'use_rslora={fields.shorten(stabilized)} is neither true nor false'
        raise UserError(message, where=where)
    return LoraConfig(rank, float(alpha), stabilized)


def _read_targets(targets: Any, where: str) -> tuple[str, ...] | str:
    message = f'target_modules={fields.shorten(targets)} are neither names nor a regex'
    if isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets):
        return tuple(targets)
    if not isinstance(targets, str):
        raise UserError(message, where=where)
    try:
        re.compile(targets)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f'{message} ({error})', where=where) from error
    return targets


def _read_token_ids(stored: Any, where: str) -> dict[str, tuple[int, ...]]:
    """Returns the ids of rows by the last part of their module's name."""
    if not stored:
        return {}
    named = stored if isinstance(stored, dict) else {'embed_tokens': stored}
    for ids in named.values():
        if not isinstance(ids, list) or any(type(i) is not int for i in ids):
            message = f'trainable_token_indices={fields.shorten(stored)} are no ids'
            raise UserError(message, where=where)
    return {name.rpartition('.')[2]: tuple(ids) for name, ids in named.items()}


def lora_config(
    adapter: Adapter, directory: pathlib.Path, num_layers: int, wanted: LoraConfig | None
) -> LoraConfig:
    """Returns the configuration of an adapter on its base.

    Args:
      adapter: the adapter.
      directory: its base's.
      num_layers: number of layers of the base.
      wanted: configuration of the run that continues it; None for no run.

    Raises UserError for an adapter of some of the layers, of no linear map of a layer, or of
    another shape or scale than `wanted`.
    """
    adapted = _adapted_maps(adapter, text_model_root(directory), num_layers)
    every = len(adapted) == len(LINEAR_MAPS)
    own = dataclasses.replace(adapter.lora, targets='.*' if every else '|'.join(adapted))
    if wanted is None:
        return own
    covered = [path for path in LINEAR_MAPS if wanted.covers(path)]
    if (wanted.rank, wanted.scale, covered) == (own.rank, own.scale, adapted):
        return wanted
    changes = {
        name: getattr(own, name)
        for name in ('rank', 'alpha', 'rank_stabilized')
        if getattr(own, name) != getattr(wanted, name)
    }
    changes |= {'targets': own.targets} if covered != adapted else {}
    raise UserError(
        'a run that continues this adapter keeps its shape and scale',
        where=str(adapter.folder),
        fix='set ' + ' '.join(f"'--config.lora.{name}={value}'" for name, value in changes.items()),
    )


def _adapted_maps(adapter: Adapter, root: str, num_layers: int) -> list[str]:
    """Returns the paths of the linear maps of a layer that have an adapter."""
    where, targets = f'{adapter.config_path}: target_modules', adapter.target_modules
    names = {path: name for name, path in tables.LINEAR.items()}
    adapted = []
    for path in LINEAR_MAPS:
        hits = {
            _is_target(targets, f'{root}layers.{layer}.{names[path]}')
            for layer in range(num_layers)
        }
        if len(hits) > 1:
            raise UserError(f'adapts {names[path]} in some layers only', where=where)
        adapted += [path] * hits.pop()
    if not adapted:
        raise UserError(f'{fields.shorten(targets)} name no linear map of a layer', where=where)
    return adapted


def _is_target(targets: tuple[str, ...] | str, module: str) -> bool:
    """Returns whether `peft` adapts the linear map of this whole name within the base."""
    if isinstance(targets, str):
        return targets == 'all-linear' or re.fullmatch(targets, module) is not None
    return any(module == name or module.endswith(f'.{name}') for name in targets)


def text_model_root(directory: pathlib.Path) -> str:
    """Returns the path of the text model inside the base's model in `transformers`."""
    return 'model.language_model.' if files.has_vision_tower(directory) else 'model.'


def check_tokens(
    adapter: Adapter, behaviors: BehaviorSet, stored: BehaviorSet, *, tied: bool
) -> None:
    """Raises UserError unless the rows of an adapter are those of the behavior tokens.

    Args:
      adapter: the adapter.
      behaviors: the behaviors of the model, with their ids.
      stored: the behaviors that the adapter was exported with, or its base; without ids.
      tied: whether the base's LM head is its embedding table.
    """
    where, ids = f'{adapter.config_path}: trainable_token_indices', adapter.token_ids
    if not ids:
        if adapter.bsft is not None and stored.token_behaviors:
            raise UserError(f'no rows of the behavior tokens that {BEHAVIORS} names', where=where)
        return
    if adapter.bsft is None:
        raise UserError(
            f'rows of tokens, and no {BEHAVIORS} that says of which behaviors',
            where=where,
            fix='export the run again with this version, with --format=peft',
        )
    names = [behavior.name for behavior in stored.token_behaviors]
    if [behavior.name for behavior in behaviors.token_behaviors] != names:
        raise UserError(
            f'the adapter has the rows of {", ".join(names)}, and keeps these behaviors',
            where=str(adapter.folder),
            fix='choose the same behaviors and arm',
        )
    modules = ('embed_tokens',) if tied else ('embed_tokens', 'lm_head')
    if ids != dict.fromkeys(modules, behaviors.ids):
        message = f'rows of {ids}, and not of {behaviors.ids} in {" and ".join(modules)}'
        raise UserError(message, where=where)
