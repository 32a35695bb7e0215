"""Opens the model that `--model` or `--workdir` names, on all devices of this machine or job."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
from jax.sharding import Mesh

from bsft_jax.behaviors import Behavior, BehaviorSet
from bsft_jax.errors import UserError
from bsft_jax.hub import adapters, pretrained
from bsft_jax.hub import files as hub_files
from bsft_jax.hub.pretrained import Model, PretrainedSpec
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import setup


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Names a model: a run, or a model directory.

    Attributes:
      workdir: folder of a run.
      model: Hugging Face directory, PEFT adapter, GGUF file, hub id, or bundled or packaged model
        instead of a run.
      step: checkpoint of the run; None for the newest.
      chat_template: Jinja file for a `model` without a template.
      behaviors: the behaviors that records name, for a `model` that was trained with none; its
        answers get no prefix.
      tokenizer: a folder whose tokenizer replaces that of `model`.
    """

    workdir: str = ''
    model: str = ''
    step: int | None = None
    chat_template: str = ''
    behaviors: tuple[Behavior, ...] = ()
    tokenizer: str = ''

    @property
    def folders(self) -> tuple[pathlib.Path, ...]:
        """Returns the folder of the run, or those of the model's files."""
        self.check()
        if self.model:
            return adapters.folders(*adapters.locate(self.model))
        return (pathlib.Path(self.workdir),)

    def check(self) -> None:
        """Raises UserError for settings that do not go together."""
        if self.model and self.step is not None:
            raise UserError('belongs to --workdir, not to --model', where=f'--step={self.step}')
        if not (self.model or self.workdir):
            raise UserError('neither --model nor --workdir is given')
        if self.chat_template and not self.model:
            raise UserError(
                'belongs to --model: a run has its own',
                where=f'--chat_template={self.chat_template}',
            )
        if self.tokenizer and not self.model:
            raise UserError(
                'belongs to --model: a run has its own', where=f'--tokenizer={self.tokenizer}'
            )
        if self.behaviors and not self.model:
            raise UserError('belongs to --model: a run has its own behaviors', where='--config')


def open_model(source: ModelSource) -> Model:
    """Loads a model onto the mesh that `mesh.inference_mesh` chooses.

    A run computes in the dtypes of its config. A model directory is held in bfloat16 where its
    files are, in float32 on CPUs.

    Raises UserError when there is no such model.
    """
    source.check()
    if not source.model:
        return setup.load_run(pathlib.Path(source.workdir), step=source.step, mesh=_mesh_for)
    spec = pretrained.read_pretrained(
        source.model, chat_template=source.chat_template, tokenizer=source.tokenizer
    )
    spec = with_behaviors(spec, source.behaviors)
    network = _in_stored_dtype(spec, jax.default_backend())
    return pretrained.load_pretrained(
        dataclasses.replace(spec, network=network), _mesh_for(network)
    )


def with_behaviors(spec: PretrainedSpec, behaviors: tuple[Behavior, ...]) -> PretrainedSpec:
    """Returns the spec of a model that knows these behaviors without having been trained on them.

    Raises UserError for a model that was trained with others.
    """
    own = spec.behaviors.behaviors if spec.behaviors.prefixes else ()
    if own and behaviors and spec.behaviors.levels != BehaviorSet(behaviors).levels:
        names = ', '.join(spec.behaviors.names)
        raise UserError(
            f'{spec.name} was trained with other behaviors: {names}',
            where='--config',
            fix='leave it out',
        )
    if own or not behaviors:
        return spec
    return dataclasses.replace(spec, behaviors=BehaviorSet(behaviors))


def _mesh_for(network: Network) -> Mesh:
    leaves = jax.tree.leaves(network.abstract())
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return mesh_lib.inference_mesh(num_bytes, network.arch.num_kv_heads)


def _in_stored_dtype(spec: PretrainedSpec, platform: str) -> Network:
    """Returns the network in bfloat16 where the files are, in float32 elsewhere and on CPUs."""
    if platform == 'cpu' or not hub_files.is_bfloat16(spec.directory):
        return spec.network
    return spec.network.with_compute(dtype='bfloat16', base_dtype='bfloat16')
