"""The training loop: top to bottom, one step dispatched before the last one's metrics are read."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Protocol

import jax
from jax.sharding import Mesh

from bsft_jax.config import RunConfig
from bsft_jax.data import loader
from bsft_jax.data.batch import Batch
from bsft_jax.errors import Preempted
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import sharding
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import step as step_lib
from bsft_jax.training.checkpoint import Checkpoints
from bsft_jax.training.state import TrainState
from bsft_jax.training.telemetry import Clock, MetricsFile, progress


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


@contextlib.contextmanager
def _termination() -> Iterator[list[int]]:
    """Collects SIGTERM instead of dying of it; the loop looks after each step."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


def device_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows as global arrays, rows over `data` and `fsdp`."""
    place = sharding.batch_sharding(mesh)
    return Batch(*(jax.make_array_from_process_local_data(place, x) for x in batch))


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
        values = {name: float(value) for name, value in metrics.items()}
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
) -> TrainState:
    """Trains from `state.step` to `config.steps`, saving as it goes.

    Raises:
      Preempted: SIGTERM came; the step in progress was finished and saved.
    """
    config, start = run.config, int(state.step)
    if start >= config.steps:
        return state
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    train_step = step_lib.make_train_step(run.network, optimizer, config.train.accumulation, config.seed)
    batches = loader.iterate(run.source, start, config.steps)
    bar = progress(f'{config.arm} steps', config.steps, start)
    metrics_file = MetricsFile(run.workdir / 'metrics.jsonl', start)
    config_dict = config.to_dict()

    def save(state: TrainState) -> None:
        checkpoints.save(
            state,
            data=run.source.state(int(state.step)),
            clock=clock.state(),
            config=config_dict,
        )

    with contextlib.ExitStack() as stack:
        stack.callback(metrics_file.close)
        stack.callback(bar.close)
        stack.enter_context(jax.set_mesh(run.mesh))
        terminated = stack.enter_context(_termination())
        batch = device_batch(next(batches), run.mesh)
        compiled = train_step.lower(state, batch).compile()
        log = _Log(run, metrics_file, clock, bar)
        clock.start()
        for step in range(start + 1, config.steps + 1):
            state, metrics = compiled(state, batch)
            log.push(step, metrics)
            last = step == config.steps or bool(terminated)
            if not last:
                waiting = time.perf_counter()
                batch = next(batches)
                clock.data_seconds += time.perf_counter() - waiting
                batch = device_batch(batch, run.mesh)
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
    if terminated and step < config.steps:
        print(f'stopped by a signal; step {step} is saved, start again to continue', file=sys.stderr)
        raise Preempted
    return state
