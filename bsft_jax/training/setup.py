"""From a config to a model and its state: base, mesh, shapes, initial and restored parameters."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable

from jax.sharding import Mesh

from bsft_jax import config as config_lib
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.config import RunConfig
from bsft_jax.data import trained_on
from bsft_jax.data.loader import BatchSource
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from bsft_jax.hub.pretrained import Model, PretrainedSpec
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import row_init, run_record
from bsft_jax.training import state as state_lib
from bsft_jax.training.checkpoint import Checkpoints
from bsft_jax.training.state import TrainState
from bsft_jax.training.workdir import TEMPLATE


def read_base(config: RunConfig) -> PretrainedSpec:
    """Reads the base model of a run, before a device is touched.

    Raises UserError as `read_pretrained` does, and for an adapter unless the run continues it.
    """
    spec = pretrained.read_pretrained(
        config.model.base,
        config.compute,
        behaviors=config.behaviors,
        prefix_kind=config.prefix_kind,
        chat_template=config.data.chat_template,
        weights=config.model.init == 'checkpoint',
        tokenizer=config.model.tokenizer,
        shape=config.model.shape,
    )
    if spec.adapter is not None:
        _check_continues(config)
    kind = config.model.row_init
    return dataclasses.replace(spec, row_init=row_init.START.get(kind, kind))


def _check_continues(config: RunConfig) -> None:
    """Raises UserError unless the run trains the adapter that its base is, on that one's base."""
    for name, value, needed in (
        ('train.mode', config.train.mode, 'lora'),
        ('model.init', config.model.init, 'checkpoint'),
    ):
        if value != needed:
            raise UserError(
                f'is an adapter, which --config.{name}={value} does not continue',
                where=f'--config.model.base={config.model.base}',
                fix=f'use --config.{name}={needed}, or merge it into a model first: '
                'bsft_jax.save_model(bsft_jax.load_model(ADAPTER), FOLDER)',
            )


def base_params(config: RunConfig, spec: PretrainedSpec, mesh: Mesh) -> Params:
    """Returns the parameters that a run starts from: the checkpoint's, or random ones."""
    if config.model.init == 'random':
        return pretrained.random_params(spec, mesh, config.seed)
    return pretrained.pretrained_params(spec, mesh, config.seed)


@dataclasses.dataclass(frozen=True)
class StatePlan:
    """Describes the devices and shapes of a run before anything is allocated.

    Attributes:
      mesh: mesh of all devices.
      network: the base's network, chosen for the mesh.
      shapes: the state's shapes, dtypes and shardings.
      row_multiple: the rows of a step are a multiple of this.
    """

    mesh: Mesh
    network: Network
    shapes: TrainState
    row_multiple: int


def plan_state(config: RunConfig, network: Network) -> StatePlan:
    """Plans a run on the devices of this machine or job.

    Raises UserError for a mesh that does not divide the devices, and as `abstract_state` does.
    """
    mesh = mesh_lib.make_mesh(config.mesh)
    network = network.for_mesh(mesh)
    shapes = abstract_state(config, network, mesh)
    return StatePlan(mesh, network, shapes, row_multiple(config, mesh))


def row_multiple(config: RunConfig, mesh: Mesh) -> int:
    """Returns what the rows of a step are a multiple of: one row per device and micro-batch."""
    return config.train.gradient_accumulation_steps * mesh_lib.batch_shards(mesh)


def abstract_state(config: RunConfig, network: Network, mesh: Mesh) -> TrainState:
    """Returns shapes, dtypes and shardings of a run's state; allocates nothing.

    Raises UserError for a mesh that does not divide the heads, the rows of a step, the blocks of a
    quantized base or the state.
    """
    sharding.check_heads(network.arch.num_heads, network.arch.num_kv_heads, mesh)
    multiple, rows = row_multiple(config, mesh), config.data.global_batch_rows
    if rows % multiple:
        raise UserError(
            f'{rows} rows do not divide by gradient accumulation steps × the devices of data and '
            f'fsdp ({multiple})',
            where='--config.data.global_batch_rows',
        )
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    shapes = state_lib.abstract(network, config.trainable, optimizer, mesh)
    sharding.check_blocks(shapes.frozen, mesh)
    sharding.check_fsdp_coverage(shapes, mesh)
    return shapes


def initial_state(
    config: RunConfig, spec: PretrainedSpec, plan: StatePlan, source: BatchSource
) -> TrainState:
    """Returns the state of a run at step 0; `row_init=fitted` looks at the first batch."""
    params = base_params(config, spec, plan.mesh)
    if config.model.row_init == 'fitted':
        steps = config.train.gradient_accumulation_steps
        params = row_init.fit_rows(plan.network, params, plan.mesh, source, steps, _new_rows(spec))
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    return state_lib.create(params, config.trainable, optimizer, plan.mesh)


def _new_rows(spec: PretrainedSpec) -> list[bool]:
    """Returns for each behavior row whether neither checkpoint nor adapter holds it."""
    held = spec.adapter is not None and bool(spec.adapter.token_ids)
    names = [behavior.name for behavior in spec.behaviors.token_behaviors]
    return [not held and name not in spec.exported_names for name in names]


def restore_target(config: RunConfig, spec: PretrainedSpec, mesh: Mesh) -> TrainState:
    """Returns what a checkpoint is restored into: the state's shapes and the frozen parameters."""
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    shapes = state_lib.abstract(spec.network, config.trainable, optimizer, mesh)
    if not shapes.frozen:
        return shapes
    _, frozen = state_lib.partition(base_params(config, spec, mesh), config.trainable)
    return shapes.replace(frozen=frozen)


def _inference_config(workdir: pathlib.Path, dtype: str) -> RunConfig:
    """Returns the config of a workdir, adapted to the devices that score or generate here."""
    config = config_lib.read_workdir(workdir)
    # The attention backend is chosen for these devices, not for those of the training run.
    model = dataclasses.replace(config.model, attention='auto', dtype=dtype or config.model.dtype)
    data, template = config.data, workdir / TEMPLATE
    if template.exists():
        data = dataclasses.replace(data, chat_template=str(template))
    return dataclasses.replace(config, model=model, data=data)


def load_run(
    workdir: pathlib.Path,
    *,
    step: int | None = None,
    mesh: Mesh | Callable[[Network], Mesh] | None = None,
    dtype: str = '',
) -> Model:
    """Loads the model of a workdir.

    Args:
      workdir: folder of the run.
      step: step of the checkpoint; default the newest intact one.
      mesh: where the parameters go, or a function that makes the mesh for the network; default the
        first device.
      dtype: dtype of activations; default the run's.

    Raises UserError when there is no such checkpoint.
    """
    config = _inference_config(workdir, dtype)
    spec = read_base(config)
    run_record.check_tokenizer(workdir, spec)
    if not spec.behaviors.behaviors:
        spec = dataclasses.replace(spec, behaviors=BehaviorSet(config.behaviors))
    mesh = mesh(spec.network) if callable(mesh) else mesh or mesh_lib.single_device_mesh()
    # Without opt_state no moments are read.
    target = restore_target(config, spec, mesh).replace(opt_state=None)
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        restored = checkpoints.restore(target, step)
    if restored is None:
        run_record.check_not_lost(workdir)
        raise UserError('no checkpoint yet', where=f'--workdir={workdir}', fix='train first')
    return Model(
        spec,
        spec.network.for_mesh(mesh),
        restored.state.params,
        mesh,
        config.data.answer_format,
        int(restored.state.step),
        trained_on.read(workdir),
    )
