"""The training loop: top to bottom, one step dispatched before the last one's metrics are read."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from bsft_jax.config import RunConfig
from bsft_jax.data import loader
from bsft_jax.data.batch import Batch
from bsft_jax.errors import Preempted, UserError
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import processes, sharding
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import step as step_lib
from bsft_jax.training.checkpoint import Checkpoints
from bsft_jax.training.state import TrainState
from bsft_jax.training.telemetry import Clock, MetricsFile, Trace, progress


class Evaluator(Protocol):
    """Scores parameters while a run goes on; the keys of the result become metrics."""

    def __call__(self, params: Params) -> dict[str, float]: ...


@dataclasses.dataclass
class Run:
    """Everything a loop needs that is not state."""

    config: RunConfig
    network: Network
    mesh: Mesh
    source: loader.StepSource
    workdir: pathlib.Path
    evaluators: tuple[Evaluator, ...] = ()


Stopping = Callable[[int], bool]


@contextlib.contextmanager
def termination() -> Iterator[Stopping]:
    """Collects SIGTERM instead of dying of it; yields what says, after the n-th step since, whether it came.

    Where processes are joined their runtime collects it, and all of them hear of it at the same step, the first
    one where it came before. A single process hears of it at once: n = 0 is before the first step.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda _: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_stopping(stopping: Stopping) -> None:
    """Raises Preempted where a signal came before the first step: there is nothing to save."""
    if stopping(0):
        raise Preempted('by a signal before the first step; start again to continue')


def device_batch(batch: Batch, mesh: Mesh, held: Sequence[int] = (), rows: int = 0) -> Batch:
    """A batch as global arrays: rows over `data` and `fsdp`, tokens over `context`.

    `batch` is the whole one, or its rows of the numbers `held` out of `rows`.
    """
    rows = rows or len(batch.tokens_BT)
    place = sharding.batch_sharding(mesh)
    number_of = {row: number for number, row in enumerate(held or range(rows))}

    def spread(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            first = number_of[start]
            return x[first : first + stop - start, index[1]]

        return jax.make_array_from_callback((rows, x.shape[1]), place, part)

    return Batch(*map(spread, batch))


def _check_finite(step: int, values: dict[str, float]) -> None:
    """Raises UserError, in every process alike, for a step that leaves nothing to train on or to save."""
    loss, norm = values['loss'], values['gradient_norm']
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f'step {step} has loss {loss} and gradient norm {norm}; it is not saved, earlier checkpoints are',
            fix='lower --config.optimizer.learning_rate (a new --workdir), or look at the records of that step',
        )


class _Log:
    """Turns device metrics into lines of metrics.jsonl, one step late so that nothing waits for them."""

    def __init__(self, run: Run, file: MetricsFile, clock: Clock, bar):
        self._file, self._clock, self._bar = file, clock, bar
        self._interval, self._last_step = run.config.log_interval, run.config.steps
        self._schedule = optimizer_lib.schedule(run.config.optimizer)
        self._pending: tuple[int, dict] | None = None
        self._since = (clock.lap(), clock.tokens, 0)
        self._targets = 0

    def push(self, step: int, metrics: dict) -> None:
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        _check_finite(step, values)
        self._clock.tokens += int(values.pop('tokens'))
        self._targets += int(values.pop('targets'))
        self._bar.update(1)
        if step % self._interval and step != self._last_step:
            return
        seconds, tokens, targets = self._since
        passed = max(self._clock.lap() - seconds, 1e-9)
        self._since = (self._clock.lap(), self._clock.tokens, self._targets)
        rate = (self._clock.tokens - tokens) / passed
        values |= {
            'learning_rate': float(self._schedule(step - 1)),
            'tokens_per_second': rate,
            'target_tokens_per_second': (self._targets - targets) / passed,
            'tokens': self._clock.tokens,
            'seconds': self._clock.lap(),
            'data_wait_share': self._clock.data_seconds / max(self._clock.lap(), 1e-9),
        }
        self._file.write(step, values)
        self._bar.set_postfix_str(f'loss {values["loss"]:.4f}, {rate:,.0f} tokens/s', refresh=False)


def train(
    run: Run,
    state: TrainState,
    checkpoints: Checkpoints,
    clock: Clock,
    stopping: Stopping,
) -> TrainState:
    """Trains from `state.step` to `config.steps`, saving as it goes.

    Raises:
      Preempted: SIGTERM came; the step in progress was finished and saved.
      UserError: the loss or the gradient norm of a step is not finite; what was saved before stays.
    """
    config, start = run.config, int(state.step)
    if start >= config.steps:
        return state
    check_stopping(stopping)
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    train_step = step_lib.make_train_step(run.network, optimizer, config.train.accumulation, config.seed)
    source = run.source
    batches = loader.iterate(source, start, config.steps)
    bar = progress(f'{config.arm} steps', config.steps, start, shown=processes.is_first())
    metrics_file = MetricsFile(run.workdir / 'metrics.jsonl', start, writes=processes.is_first())
    trace = Trace(config.profiled, run.workdir / 'profile')
    config_dict = config.to_dict()

    def save(state: TrainState) -> None:
        checkpoints.save(
            state,
            data=source.state(int(state.step)),
            clock=clock.state(),
            config=config_dict,
        )

    with contextlib.ExitStack() as stack:
        stack.callback(metrics_file.close)
        stack.callback(bar.close)
        stack.callback(trace.close)
        stack.enter_context(jax.set_mesh(run.mesh))
        batch = device_batch(next(batches), run.mesh, source.held, source.rows)
        compiled = train_step.lower(state, batch).compile()
        log = _Log(run, metrics_file, clock, bar)
        clock.start()
        for step in range(start + 1, config.steps + 1):
            trace.begin(step, state)
            state, metrics = compiled(state, batch)
            trace.end(step, state)
            log.push(step, metrics)
            stopped = stopping(step - start)
            last = stopped or step == config.steps
            if not last:
                waiting = time.perf_counter()
                batch = next(batches)
                clock.data_seconds += time.perf_counter() - waiting
                batch = device_batch(batch, run.mesh, source.held, source.rows)
            evaluates = config.evaluation.interval and step % config.evaluation.interval == 0
            saves = last or step % config.checkpoint.interval == 0
            if not (evaluates or saves):
                continue
            log.flush()
            clock.stop()
            if evaluates:
                for evaluator in run.evaluators:
                    metrics_file.write(step, evaluator(state.params))
            if saves:
                save(state)
            if last:
                break
            clock.start()
        checkpoints.wait()
    if stopped and step < config.steps:
        raise Preempted(f'by a signal; step {step} is saved, start again to continue')
    return state
