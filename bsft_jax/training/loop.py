"""The training loop: dispatches a step before it waits for the metrics of the one before."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Protocol

import jax
from jax.sharding import Mesh

from bsft_jax.config import RunConfig
from bsft_jax.data import loader
from bsft_jax.errors import Preempted
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import processes
from bsft_jax.training import step as step_lib
from bsft_jax.training import trackers
from bsft_jax.training.checkpoint import Checkpoints
from bsft_jax.training.preemption import preemption_signal, raise_if_preempted
from bsft_jax.training.progress import progress
from bsft_jax.training.state import TrainState
from bsft_jax.training.telemetry import Clock, MetricsFile, MetricsLogger, Trace


class Evaluator(Protocol):
    """Measures parameters during a run."""

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns metrics by name, as they are written to `metrics.jsonl`."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainContext:
    """Holds everything that the loop needs and does not change.

    Attributes:
      config: the run.
      network: its decoder, chosen for `mesh`.
      mesh: mesh of all devices.
      source: batches by step.
      workdir: where metrics and traces are written.
      evaluators: run in this order every `evaluation.interval` steps.
    """

    config: RunConfig
    network: Network
    mesh: Mesh
    source: loader.BatchSource
    workdir: pathlib.Path
    evaluators: tuple[Evaluator, ...] = ()


def train(
    context: TrainContext,
    state: TrainState,
    checkpoints: Checkpoints,
    clock: Clock,
) -> TrainState:
    """Trains from `state.step` to `config.steps`, evaluating and saving on the way.

    The buffers of `state` are donated.

    Raises:
      Preempted: SIGTERM came; the step in progress was finished and saved.
      UserError: a step has no finite loss or gradient, or cannot be saved; earlier ones stay.
    """
    config, source, mesh = context.config, context.source, context.mesh
    start = int(state.step)
    if start >= config.steps:
        return state
    raise_if_preempted()
    train_step = step_lib.step_of_run(config, context.network)
    batches = loader.iterate(source, start, config.steps)
    bar = progress(f'{config.arm} steps', config.steps, start, shown=processes.is_first())
    metrics_file = _open_metrics(context, start)
    logger = MetricsLogger(config, metrics_file, clock, bar)
    trace = Trace(config.trace_steps, context.workdir / 'profile')
    config_dict, stopping = config.to_dict(), False

    with contextlib.ExitStack() as stack:
        stack.push(lambda e, *_: metrics_file.close(failed=e is not None, stopped=stopping))
        for resource in (bar, trace):
            stack.callback(resource.close)
        stack.enter_context(jax.set_mesh(mesh))
        batch = loader.to_device(next(batches), mesh, source.local_rows, source.rows)
        compiled_step = train_step.lower(state, batch).compile()
        should_stop = stack.enter_context(preemption_signal())

        @contextlib.contextmanager
        def paused() -> Iterator[None]:
            # The clock measures training alone, and a checkpoint holds every token it counted.
            logger.flush()
            clock.stop()
            yield
            clock.start()

        clock.start()
        for step in range(start + 1, config.steps + 1):
            trace.begin(step, state)
            with jax.profiler.StepTraceAnnotation('train', step_num=step):
                state, metrics = compiled_step(state, batch)
            trace.end(step, state)
            logger.push(step, metrics)
            checkpoints.check()

            stopping = should_stop(step - start)
            is_last = stopping or step == config.steps
            if not is_last:
                # The next batch goes to the devices while they compute this step.
                with clock.waiting_for_data():
                    host_batch = next(batches)
                batch = loader.to_device(host_batch, mesh, source.local_rows, source.rows)

            # Evaluation comes before the save: a run killed between them would not repeat it.
            if config.evaluation.interval and step % config.evaluation.interval == 0:
                with paused():
                    for evaluator in context.evaluators:
                        metrics_file.write(step, evaluator(state.params))
            if is_last or step % config.checkpoint.interval == 0:
                with paused():
                    checkpoints.save(
                        state, data=source.state(step), clock=clock.state(), config=config_dict
                    )
            if is_last:
                break
        checkpoints.wait()
    if stopping and step < config.steps:
        raise Preempted(f'by a signal; step {step} is saved, start again to continue')
    return state


def _open_metrics(context: TrainContext, start: int) -> MetricsFile:
    """Opens metrics.jsonl with its copies for a run that continues at `start`."""
    return MetricsFile(
        context.workdir / 'metrics.jsonl',
        start,
        writes=processes.is_first(),
        start_trackers=functools.partial(trackers.start, context.config, context.workdir),
    )
