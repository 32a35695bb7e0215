"""Trains a run, or continues it from its newest intact checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import sys

from bsft_jax import config as config_lib
from bsft_jax import files
from bsft_jax.commands import evaluators
from bsft_jax.config import RunConfig
from bsft_jax.data import contamination, loader, pipeline, trained_on
from bsft_jax.data.trained_on import TrainedOn
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from bsft_jax.hub.pretrained import PretrainedSpec
from bsft_jax.parallel import env, processes, sharding
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import loop, setup, trackers
from bsft_jax.training import state as state_lib
from bsft_jax.training import workdir as workdir_lib
from bsft_jax.training.checkpoint import Checkpoints
from bsft_jax.training.preemption import raise_if_preempted
from bsft_jax.training.state import TrainState
from bsft_jax.training.telemetry import Clock


def train(config: RunConfig, workdir: str | pathlib.Path) -> None:
    """Trains a run, or continues it from the newest intact checkpoint of `workdir`.

    Raises:
      UserError: something the user must change, before a device computes; or a loss that is not
        finite.
      Preempted: SIGTERM; the run is saved and can be started again.
    """
    config_lib.validate(config)
    evaluators.check_evaluators(config)
    workdir = pathlib.Path(workdir)
    workdir_lib.on_first_process(workdir, lambda: trackers.check(config))
    # Whatever can be refused is refused before the workdir is created or a weight is read.
    spec = setup.read_base(config)
    workdir_lib.check_workdir(workdir, config, spec)
    if config.model.init == 'checkpoint' and not (workdir / 'checkpoints').is_dir():
        pretrained.check_weights(spec)
    store, plan, trained = pipeline.training_examples(
        config, spec.tokenizer, spec.behaviors, spec.network.arch.max_positions
    )
    raise_if_preempted()
    network = dataclasses.replace(spec.network, max_segments=plan.max_records_per_row)
    state_plan = setup.plan_state(config, network)
    mesh, network = state_plan.mesh, state_plan.network
    source = loader.BatchSource(
        store,
        plan,
        packed=config.data.packed,
        row_multiple=state_plan.row_multiple,
        local_rows=functools.partial(sharding.local_rows, mesh),
        steps=config.steps,
    )
    run_evaluators = evaluators.make_evaluators(config, spec, network, mesh)

    workdir_lib.create(workdir, config)
    processes.log_first(plan.describe_run(config.steps))
    if spec.adapter is not None:
        rows = ' and its behavior rows' if spec.adapter.token_ids else ''
        processes.log_first(f'continues the adapter {spec.name}{rows}')
    processes.log_first(f'mesh: {mesh_lib.describe_mesh(mesh)}')
    processes.log_first(f'attention: {network.compute.attention}')
    if warning := env.missing_settings():
        processes.log_first(warning)

    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    with workdir_lib.lock(workdir), contextlib.closing(checkpoints):
        if processes.is_first():
            workdir_lib.write_environment(workdir)
            table = state_lib.sharding_table(state_plan.shapes)
            files.write_text(workdir / 'parameters.txt', table + '\n')
        if not checkpoints.steps:
            workdir_lib.check_not_lost(workdir)
        state, clock = _initial_or_restored(config, spec, state_plan, source, checkpoints)
        workdir_lib.update_config(workdir, config)
        workdir_lib.record_start(workdir, spec, int(state.step))
        if processes.is_first():
            _record_training(config, spec, workdir, trained)
        if spec.behaviors.ids:
            ratio = pretrained.row_norm_ratio(state.params)
            processes.log_first(f"behavior rows: norm {ratio:.3f} of the table's")
        context = loop.TrainContext(config, network, mesh, source, workdir, run_evaluators)
        state = loop.train(context, state, checkpoints, clock)
    processes.log_first(f'done: {workdir}, step {int(state.step)}', file=sys.stdout)


def _record_training(
    config: RunConfig, spec: PretrainedSpec, workdir: pathlib.Path, trained: TrainedOn
) -> None:
    """Writes what the run is trained on, its base included, and warns of validation records in it.

    The records are known to be those of the checkpoint that the run continues from.
    """
    if (of_base := trained_on.read(*spec.folders)) is not None:
        trained = TrainedOn.joined([of_base, trained])
    trained.write(workdir)
    if config.evaluation.interval:
        for line in contamination.split_warnings(trained, config.data.source, 'validation'):
            processes.log_first(line)


def _initial_or_restored(
    config: RunConfig,
    spec: PretrainedSpec,
    state_plan: setup.StatePlan,
    source: loader.BatchSource,
    checkpoints: Checkpoints,
) -> tuple[TrainState, Clock]:
    """Returns the state and clock of the newest intact checkpoint, or those of step 0.

    Raises UserError where the checkpoint was trained on other records.
    """
    restored = None
    if checkpoints.steps:
        restored = checkpoints.restore(setup.restore_target(config, spec, state_plan.mesh))
    if restored is None:
        return setup.initial_state(config, spec, state_plan, source), Clock()
    if restored.data != source.state(restored.data['step']):
        raise UserError(
            'the training records are not those this run started with',
            where=f'--config.data.source={config.data.source}',
        )
    processes.log_first(f'continuing at step {int(restored.state.step)}')
    return restored.state, Clock(**restored.clock)
