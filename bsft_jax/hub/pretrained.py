"""Pretrained models: configuration, tokenizer and parameters of a Hugging Face directory."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bsft_jax.behaviors import PREFIX_KINDS, Behavior, BehaviorSet, extend_tokenizer
from bsft_jax.config import ComputeConfig
from bsft_jax.config.checks import CHOICES
from bsft_jax.data import trained_on
from bsft_jax.data.tokenizer import load_tokenizer, template_texts
from bsft_jax.data.trained_on import TrainedOn
from bsft_jax.errors import UserError
from bsft_jax.hub import adapters, configs, fields, files, gguf_base, loading
from bsft_jax.hub.adapters import BEHAVIORS, Adapter
from bsft_jax.models import behavior_rows, lm_head
from bsft_jax.models.network import Network, Params
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten, unflatten


@dataclasses.dataclass(frozen=True)
class PretrainedSpec:
    """Describes a pretrained model before a device is touched.

    Attributes:
      directory: where it was read; of an adapter, where its base was.
      hf_config: the checkpoint's own `config.json`.
      tokenizer: extended by the tokens of `behaviors`, if any.
      behaviors: the behaviors with the prefixes of the model's answers.
      exported_names: names of the behavior rows that the checkpoint or adapter already holds, if
        this package exported it.
      network: the decoder's graph.
      row_init: initial value of rows that the checkpoint does not hold: `description`, `mean` or
        `normal`.
      name: what the user asked for: a path, a hub id, or a bundled or packaged model.
      tokenizer_directory: folder of the tokenizer, where it is not the model's.
      adapter: the adapter, if that is what the user asked for.
    """

    directory: pathlib.Path
    hf_config: dict[str, Any]
    tokenizer: Any
    behaviors: BehaviorSet
    exported_names: frozenset[str]
    network: Network
    row_init: str = 'description'
    name: str = ''
    tokenizer_directory: pathlib.Path | None = None
    adapter: Adapter | None = None

    @property
    def folders(self) -> tuple[pathlib.Path, ...]:
        """Returns the folders that the model comes from, an adapter's before its base's."""
        return adapters.folders(self.directory, self.adapter)


def exported_behaviors(hf_config: dict[str, Any], where: str = 'config.json') -> BehaviorSet:
    """Returns the behaviors that an exported checkpoint names in its `config.json`, else none.

    Raises UserError for an entry of another version of this package, or a damaged one.
    """
    stored = hf_config.get('bsft')
    if stored is None:
        return BehaviorSet()
    fix = 'export the model again with this version'
    if 'prefix_kind' not in stored:
        message = 'its `bsft` entry is from another version of bsft_jax'
        raise UserError(message, where=where, fix=fix)
    for field, choices, default in (
        ('prefix_kind', PREFIX_KINDS, 'none'),
        ('answer_format', CHOICES['data.answer_format'], 'letter'),
    ):
        if (value := stored.get(field, default)) not in choices:
            message = f'bsft.{field} {fields.shorten(value)} is none of {", ".join(choices)}'
            raise UserError(message, where=where, fix=fix)
    entries = stored.get('behaviors', [])
    is_list = isinstance(entries, list) and all(map(_is_behavior, entries))
    if not is_list or len({entry['name'] for entry in entries}) < len(entries):
        message = f'bsft.behaviors {fields.shorten(entries)} are no behaviors'
        raise UserError(message, where=where, fix=fix)
    behaviors = tuple(
        Behavior(entry['name'], entry['level'], entry.get('description', entry['name']))
        for entry in entries
    )
    return BehaviorSet(behaviors, prefix_kind=stored['prefix_kind'])


def _is_behavior(entry: Any) -> bool:
    """Returns whether an entry of a `config.json` has what a behavior needs."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get('name'), str)
        and entry['name'].isidentifier()
        and fields.is_number(entry.get('level'))
        and 0 <= entry['level'] <= 1
        and isinstance(entry.get('description', ''), str)
    )


def read_pretrained(
    base: str,
    compute: ComputeConfig | None = None,
    *,
    behaviors: tuple[Behavior, ...] = (),
    prefix_kind: str = 'tokens',
    chat_template: str = '',
    weights: bool = True,
    tokenizer: str = '',
    shape: str = '',
) -> PretrainedSpec:
    """Reads configuration and tokenizer of a model directory and adds its behavior tokens.

    The network of an adapter is that of its base with adapters.

    Args:
      base: a Hugging Face directory, a PEFT adapter, a GGUF file, a hub id, or the name of a
        bundled or packaged model.
      compute: how the network is held and computed; default float32, attention `auto`.
      behaviors: behaviors of the model; empty for those that the checkpoint was exported with.
      prefix_kind: how answers begin with `behaviors`, one of `behaviors.PREFIX_KINDS`.
      chat_template: a Jinja file, for a tokenizer without a template.
      weights: whether the directory's weights are used, if it has any.
      tokenizer: a folder whose tokenizer replaces that of `base`; '' for none.
      shape: sizes that replace those of `base`, see `ModelConfig`; '' for none.

    Raises UserError for a directory that cannot be loaded exactly.
    """
    directory, adapter = adapters.locate(base)
    hf_config = configs.with_shape(files.read_config(directory), shape)
    where = str(directory / 'config.json')
    arch = configs.architecture_of(hf_config, where)
    if weights and files.has_weights(directory):
        tensors = files.open_tensors(directory)
        files.check_unquantized(tensors)
        files.check_depth(tensors, arch.num_layers)
        # As in transformers, a head of its own is not overruled by the flag.
        arch = dataclasses.replace(arch, tied=arch.tied and not files.has_own_head(tensors))
    compute = compute or ComputeConfig(attention='auto')
    if adapter is not None:
        lora = adapters.lora_config(adapter, directory, arch.num_layers, compute.lora)
        compute = dataclasses.replace(compute, lora=lora)
        if adapter.bsft is not None:
            hf_config, where = hf_config | {'bsft': adapter.bsft}, str(adapter.folder / BEHAVIORS)
    own = adapters.own_tokenizer(adapter)
    own = pathlib.Path(tokenizer).expanduser() if tokenizer else own
    template = chat_template or adapters.own_template(adapter)
    hf_tokenizer = read_tokenizer(directory, own, template)
    _check_table_covers(hf_tokenizer, arch.vocab_size, str(own or directory), adapter)
    exported = exported_behaviors(hf_config, where)
    exported_names = frozenset(b.name for b in exported.token_behaviors)
    if not behaviors:
        behaviors, prefix_kind = exported.behaviors, exported.prefix_kind
    extended = extend_tokenizer(
        hf_tokenizer, behaviors, prefix_kind, arch.vocab_size, configs.used_ids(hf_config)
    )
    if adapter is not None:
        adapters.check_tokens(adapter, extended, exported, tied=arch.tied)
    network = Network(arch, extended.ids, compute)
    return PretrainedSpec(
        directory,
        hf_config,
        hf_tokenizer,
        extended,
        exported_names,
        network,
        name=base,
        tokenizer_directory=own,
        adapter=adapter,
    )


def read_tokenizer(
    directory: pathlib.Path, own: pathlib.Path | None = None, chat_template: str = ''
) -> Any:
    """Returns the tokenizer of a model directory, or that of a folder which replaces it.

    Args:
      directory: the model's.
      own: the other folder; None for none.
      chat_template: a Jinja file that replaces the tokenizer's template.

    Raises UserError for a folder without a tokenizer that can be read.
    """
    if own is None:
        gguf_base.check_has_tokenizer(directory)
    return load_tokenizer(own or directory, chat_template)


def _check_table_covers(tokenizer, table_rows: int, where: str, adapter: Adapter | None) -> None:
    """Raises UserError for a tokenizer that writes ids beyond the rows of the embedding table.

    An adapter may have the row. Special tokens beyond the end are ignored unless the chat template
    writes them: Gemma 3 1B has one for images.
    """
    rows = frozenset() if adapter is None else adapter.row_ids
    template = '\n'.join(template_texts(tokenizer))
    added = tokenizer.added_tokens_decoder
    ids = tokenizer.get_vocab().values()
    for i in (i for i in ids if i >= table_rows and i not in rows):
        if i not in added or not added[i].special or added[i].content in template:
            raise UserError(
                f'the tokenizer has {max(ids) + 1} ids, the embedding table {table_rows} rows',
                where=where,
            )


def pretrained_params(spec: PretrainedSpec, mesh: Mesh, seed: int = 0) -> Params:
    """Loads the parameters onto the mesh and draws new behavior rows and adapters from the seed.

    Raises UserError as `check_weights` does.
    """
    check_weights(spec)
    params = loading.load_params(spec.directory, spec.network, mesh)
    return with_adapters(spec, with_behavior_rows(spec, params, mesh, seed), mesh, seed)


def check_weights(spec: PretrainedSpec) -> None:
    """Raises UserError unless the files hold every tensor in its shape; reads no tensor."""
    loading.BaseCheckpoint(spec.directory, spec.network)
    if spec.adapter is not None:
        loading.AdapterCheckpoint(spec.adapter, spec.network)


def _adapter_params(spec: PretrainedSpec, part: str, mesh: Mesh) -> Params:
    """Reads those parameters of an adapter whose paths contain `part`."""
    checkpoint = loading.AdapterCheckpoint(spec.adapter, spec.network)
    return checkpoint.read([path for path in checkpoint.paths if part in path], mesh)


def random_params(spec: PretrainedSpec, mesh: Mesh, seed: int) -> Params:
    """Draws all parameters from the seed, on the mesh; behavior rows start as `row_init` says."""
    plain = dataclasses.replace(spec.network, behavior_ids=()).with_compute(lora=None)
    shardings = sharding.shardings(plain.abstract(), mesh)
    params = jax.jit(plain.init, out_shardings=shardings)(jax.random.key(seed))
    return with_adapters(spec, with_behavior_rows(spec, params, mesh, seed), mesh, seed)


def with_behavior_rows(spec: PretrainedSpec, params: Params, mesh: Mesh, seed: int) -> Params:
    """Adds `behavior/…` to the parameters of a checkpoint.

    Rows that the checkpoint or adapter holds stay as they are, new ones start as `spec.row_init`
    says.
    """
    ids, behaviors = spec.behaviors.ids, spec.behaviors.token_behaviors
    if not ids:
        return params
    if spec.adapter is not None and spec.adapter.token_ids:
        return params | _adapter_params(spec, 'behavior/', mesh)
    from_description = spec.row_init == 'description'

    def source_ids(behavior: Behavior, token_id: int) -> list[int]:
        """Returns the ids whose mean is the row's value."""
        if behavior.name in spec.exported_names or not from_description:
            return [token_id]
        return spec.tokenizer.encode(behavior.description, add_special_tokens=False)

    sources = tuple(tuple(source_ids(b, i)) for b, i in zip(behaviors, ids, strict=True))
    exported = tuple(b.name in spec.exported_names for b in behaviors)
    make = _rows_program(spec.network, mesh, sources, exported, spec.row_init)
    return {**params, 'behavior': make(params, jax.random.key(seed))}


# Programs that make parameters are kept by what they depend on: a process that opens a model many
# times compiles them once.
@functools.lru_cache(maxsize=4)
def _rows_program(
    network: Network,
    mesh: Mesh,
    sources: tuple[tuple[int, ...], ...],
    exported: tuple[bool, ...],
    row_init: str,
) -> Callable[[Params, jax.Array], Params]:
    """Returns the compiled function of (parameters, key) that makes the behavior rows."""

    def rows_of(table_VD: jax.Array, key: jax.Array) -> jax.Array:
        rows_nD = behavior_rows.mean_rows(table_VD, sources)
        if row_init == 'description':
            return rows_nD
        row_key = key if row_init == 'normal' else None
        common_nD = behavior_rows.common_rows(table_VD, len(sources), row_key)
        return jnp.where(jnp.asarray(exported)[:, None], rows_nD, common_nD)

    def make(params: Params, key: jax.Array) -> Params:
        rows = {'input': rows_of(params['embed']['table'], key)}
        if 'lm_head' in params:
            rows['output'] = rows_of(params['lm_head']['kernel'].T, key)
        return rows

    shardings = sharding.shardings({'behavior': network.abstract()['behavior']}, mesh)['behavior']
    return jax.jit(make, out_shardings=shardings)


def with_adapters(spec: PretrainedSpec, params: Params, mesh: Mesh, seed: int) -> Params:
    """Adds `…/lora/a` and `…/lora/b` where the network has adapters: an adapter's, or new ones."""
    if spec.network.compute.lora is None:
        return params
    if spec.adapter is not None:
        factors = _adapter_params(spec, '/lora/', mesh)
    else:
        factors = _adapters_program(spec.network, mesh)(jax.random.key(seed))
    return unflatten(flatten(params) | flatten(factors))


@functools.lru_cache(maxsize=4)
def _adapters_program(network: Network, mesh: Mesh) -> Callable[[jax.Array], Params]:
    """Returns the compiled function of a key that draws the adapters."""

    def make(key: jax.Array) -> Params:
        flat = flatten(network.init(key))
        return unflatten({path: leaf for path, leaf in flat.items() if '/lora/' in path})

    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.jit(make, out_shardings=sharding.shardings(shapes, mesh))


def row_norm_ratio(params: Params) -> float:
    """Returns the mean norm of the behavior rows over the mean norm of the table's rows."""

    def mean_norm(rows: jax.Array) -> jax.Array:
        return jnp.mean(jnp.linalg.norm(rows, axis=-1))

    return float(mean_norm(params['behavior']['input']) / mean_norm(params['embed']['table']))


@functools.partial(jax.jit, static_argnums=0)
def _logits(
    network: Network, params: Params, tokens_BT: jax.Array, layout: TokenLayout
) -> jax.Array:
    decoder = network.bind(params)
    return lm_head.logits(decoder, decoder(tokens_BT, layout)[0])


@dataclasses.dataclass(frozen=True)
class Model:
    """Holds a model that is ready to score and generate.

    Attributes:
      spec: what the model was read from; its tokenizer and behaviors are the model's.
      network: the decoder's graph, chosen for `mesh`.
      params: parameters on `mesh`.
      mesh: the devices.
      answer_format: how the model names an option in its answer, `letter` or `text`.
      step: step of the checkpoint, for the model of a run.
      trained_on: hashes of the records that the model was trained on; None where not known.
    """

    spec: PretrainedSpec
    network: Network
    params: Params
    mesh: Mesh
    answer_format: str = 'letter'
    step: int | None = None
    trained_on: TrainedOn | None = None

    @property
    def tokenizer(self):
        """Returns the tokenizer, extended by the behavior tokens."""
        return self.spec.tokenizer

    @property
    def behaviors(self) -> BehaviorSet:
        """Returns the behaviors with the prefixes of the model's answers."""
        return self.spec.behaviors

    def logits(self, tokens_BT, segment_ids_BT=None, positions_BT=None) -> jax.Array:
        """Returns full logits [B, T, V] in float32; without segment ids a row is one segment."""
        tokens_BT = jnp.asarray(tokens_BT, jnp.int32)
        layout = TokenLayout.single(tokens_BT)
        if segment_ids_BT is not None:
            layout = layout.replace(segment_ids_BT=jnp.asarray(segment_ids_BT, jnp.int32))
        if positions_BT is not None:
            layout = layout.replace(positions_BT=jnp.asarray(positions_BT, jnp.int32))
        with jax.set_mesh(self.mesh):
            return _logits(self.network, self.params, tokens_BT, layout)


def load_pretrained(spec: PretrainedSpec, mesh: Mesh | None = None) -> Model:
    """Loads the parameters of a model directory onto `mesh` (default: the first device)."""
    mesh = mesh or mesh_lib.single_device_mesh()
    answer_format = (spec.hf_config.get('bsft') or {}).get('answer_format', 'letter')
    params = pretrained_params(spec, mesh)
    network, trained = spec.network.for_mesh(mesh), trained_on.read(*spec.folders)
    return Model(spec, network, params, mesh, answer_format, trained_on=trained)
