"""A model with its tokenizer: from a Hugging Face directory, with behavior rows added."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bsft_jax.behaviors import Behavior, BehaviorSet, extend_tokenizer
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, files, loading
from bsft_jax.models import behavior_rows, head
from bsft_jax.models.attention import Layout
from bsft_jax.models.lora import LoraSpec
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.trees import flatten, unflatten


@dataclasses.dataclass
class BaseModel:
    """What a model directory says before a device is touched.

    Attributes:
      directory: where it was read.
      hf_config: the checkpoint's own `config.json`.
      tokenizer: extended by the tokens of `behaviors`, if any.
      behaviors: the behaviors with the heads of the model's answers.
      known: names of the rows that the checkpoint already holds (an export of this package).
      network: the decoder's graph.
      name: how it was asked for: a path, a hub id or a bundled model.
      new_rows: first value of rows that the checkpoint does not hold: `description`, `mean` or `normal`.
    """

    directory: pathlib.Path
    hf_config: dict[str, Any]
    tokenizer: Any
    behaviors: BehaviorSet
    known: frozenset[str]
    network: Network
    new_rows: str = 'description'
    name: str = ''


def exported_behaviors(hf_config: dict[str, Any]) -> BehaviorSet:
    """Behaviors and form that an exported checkpoint names in its `config.json`; empty for any other."""
    stored = hf_config.get('bsft', {})
    entries = stored.get('behaviors', [])
    behaviors = tuple(Behavior(e['name'], e['level'], e.get('description', e['name'])) for e in entries)
    return BehaviorSet(behaviors, form=stored.get('form', 'tokens' if behaviors else 'none'))


def open_base(
    base: str,
    *,
    behaviors: tuple[Behavior, ...] = (),
    form: str = 'tokens',
    dtype: str = 'float32',
    chat_template: str = '',
    base_dtype: str = 'float32',
    lora: LoraSpec | None = None,
    new_rows: str = 'description',
    remat: str = 'none',
    attention: str = 'auto',
) -> BaseModel:
    """Reads configuration and tokenizer of a model directory and plans its behavior rows.

    Args:
      base: a Hugging Face directory or the name of a bundled model.
      behaviors: of the model; empty for those that the checkpoint was exported with, in their form.
      form: of the heads of `behaviors`, one of `behaviors.FORMS`.
      dtype: of activations.
      chat_template: a file, for a tokenizer that has no template.
      base_dtype, lora, remat, attention: of the network.
      new_rows: first value of new behavior rows.
    """
    directory = files.resolve_directory(base)
    hf_config = files.read_config(directory)
    arch = configs.architecture_of(hf_config, str(directory / 'config.json'))
    tokenizer = load_tokenizer(directory, chat_template)
    _check_rows(tokenizer, arch.vocab_size, str(directory))
    exported = exported_behaviors(hf_config)
    known = frozenset(b.name for b in exported.rows)
    if not behaviors:
        behaviors, form = exported.behaviors, exported.form
    added = extend_tokenizer(tokenizer, behaviors, form, arch.vocab_size)
    network = Network(arch, added.ids, dtype, base_dtype, lora, remat, attention)
    return BaseModel(directory, hf_config, tokenizer, added, known, network, new_rows, base)


def _check_rows(tokenizer, rows: int, where: str) -> None:
    """Raises UserError for a tokenizer that writes ids which the table has no rows for.

    Special tokens behind the end that the template does not write are let be: Gemma 3 1B has one for images.
    """
    template = tokenizer.chat_template or ''
    behind = {i: token for i, token in tokenizer.added_tokens_decoder.items() if i >= rows}
    harmless = all(token.special and token.content not in template for token in behind.values())
    if len(tokenizer) - len(behind) > rows or not harmless:
        raise UserError(
            f'the tokenizer has {len(tokenizer)} ids, the embedding table {rows} rows', where=where
        )


def load_base_params(base: BaseModel, mesh: Mesh, seed: int = 0) -> Params:
    """Parameters of a model directory on the mesh, with initial behavior rows and adapters from the seed."""
    params = loading.load_params(base.directory, base.network, mesh)
    return with_adapters(base, with_rows(base, params, mesh, seed), mesh, seed)


def random_base_params(base: BaseModel, mesh: Mesh, seed: int) -> Params:
    """Parameters drawn from the seed, on the mesh, with initial behavior rows."""
    plain = dataclasses.replace(base.network, behavior_ids=(), lora=None)
    places = sharding.shardings(plain.abstract(), mesh)
    params = jax.jit(plain.init, out_shardings=places)(jax.random.key(seed))
    return with_adapters(base, with_rows(base, params, mesh, seed), mesh, seed)


def with_rows(base: BaseModel, params: Params, mesh: Mesh, seed: int) -> Params:
    """Adds `behavior/…`: rows that the checkpoint holds already as they are, others as `base.new_rows` says."""
    ids = base.behaviors.ids
    if not ids:
        return params
    known = jnp.asarray([b.name in base.known for b in base.behaviors.rows])[:, None]
    described = base.new_rows == 'description'
    sources = [
        [i]
        if b.name in base.known or not described
        else base.tokenizer.encode(b.description, add_special_tokens=False)
        for b, i in zip(base.behaviors.rows, ids, strict=True)
    ]
    key = jax.random.key(seed) if base.new_rows == 'normal' else None

    def rows_of(table_VD: jax.Array) -> jax.Array:
        rows_nD = behavior_rows.mean_rows(table_VD, sources)
        return (
            rows_nD
            if described
            else jnp.where(known, rows_nD, behavior_rows.common_rows(table_VD, len(ids), key))
        )

    def make(params: Params) -> Params:
        rows = {'input': rows_of(params['embed']['table'])}
        if 'head' in params:
            rows['output'] = rows_of(params['head']['kernel'].T)
        return rows

    places = sharding.shardings({'behavior': jax.eval_shape(make, params)}, mesh)['behavior']
    return {**params, 'behavior': jax.jit(make, out_shardings=places)(params)}


def with_adapters(base: BaseModel, params: Params, mesh: Mesh, seed: int) -> Params:
    """Adds `…/lora/a` and `…/lora/b` where the network has adapters."""
    if base.network.lora is None:
        return params

    def make(key: jax.Array) -> Params:
        flat = flatten(base.network.init(key))
        return unflatten({path: leaf for path, leaf in flat.items() if '/lora/' in path})

    key = jax.random.key(seed)
    places = sharding.shardings(jax.eval_shape(make, key), mesh)
    adapters = jax.jit(make, out_shardings=places)(key)
    return unflatten(flatten(params) | flatten(adapters))


def row_norm_ratio(params: Params) -> float:
    """Mean norm of the behavior rows over the mean norm of the table's rows."""
    norm = lambda rows: jnp.mean(jnp.linalg.norm(rows, axis=-1))  # noqa: E731
    return float(norm(params['behavior']['input']) / norm(params['embed']['table']))


@functools.partial(jax.jit, static_argnums=0)
def _logits(network: Network, params: Params, tokens_BT: jax.Array, layout: Layout) -> jax.Array:
    decoder = network.bind(params)
    return head.logits(decoder, decoder(tokens_BT, layout)[0])


@dataclasses.dataclass
class Model:
    """A model ready to score and generate: graph, parameters on a mesh, tokenizer, behaviors.

    `answer_format` is how the model was taught to name an option, `letter` or `text`; `step` that of the
    checkpoint it was read from, if one of a run.
    """

    base: BaseModel
    params: Params
    mesh: Mesh
    answer_format: str = 'letter'
    step: int | None = None

    def __post_init__(self):
        self.base = dataclasses.replace(self.base, network=self.base.network.on(self.mesh))

    @property
    def network(self) -> Network:
        return self.base.network

    @property
    def tokenizer(self):
        return self.base.tokenizer

    @property
    def behaviors(self) -> BehaviorSet:
        return self.base.behaviors

    def logits(self, tokens_BT, segment_ids_BT=None, positions_BT=None) -> jax.Array:
        """Full logits [B, T, V'] in float32; without segment ids a row is one document."""
        tokens_BT = jnp.asarray(tokens_BT, jnp.int32)
        layout = Layout.single(tokens_BT)
        if segment_ids_BT is not None:
            layout = layout.replace(segment_ids_BT=jnp.asarray(segment_ids_BT, jnp.int32))
        if positions_BT is not None:
            layout = layout.replace(positions_BT=jnp.asarray(positions_BT, jnp.int32))
        with jax.set_mesh(self.mesh):
            return _logits(self.network, self.params, tokens_BT, layout)


def load(base: BaseModel, mesh: Mesh | None = None, answer_format: str = '') -> Model:
    """Reads the parameters of an opened model directory onto `mesh` (default: the first device)."""
    mesh = mesh or mesh_lib.single_device_mesh()
    stored = base.hf_config.get('bsft', {}).get('answer_format', 'letter')
    return Model(base, load_base_params(base, mesh), mesh, answer_format or stored)
