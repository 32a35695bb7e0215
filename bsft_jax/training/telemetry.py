"""Telemetry: metrics.jsonl with its copies for TensorBoard and trackers, clock, profiler trace."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from bsft_jax import files
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training.trackers import LAST_SECONDS, STOPPED_SECONDS, Reporter

_FLUSH_SECONDS = 10


Lines = list[dict[str, float]]


class MetricsFile:
    """Writes `metrics.jsonl`, a JSON object a line with its `step`, and the same to `tensorboard/`.

    Trackers get the same from `start_trackers(kept, dropped)`, the lines that the file held.

    Opening it for a run that continues at `step` drops lines beyond that step and lines that it did
    not write whole, and writes TensorBoard's event files anew from the lines that stay. Without
    `writes`, in every process but the first, it touches no file.
    """

    def __init__(
        self,
        path: pathlib.Path,
        step: int,
        *,
        writes: bool = True,
        start_trackers: Callable[[Lines, Lines], list[Reporter]] = lambda *_: [],
    ):
        self._writes = writes
        if not writes:
            return
        self._path = path
        lines = files.read_metrics(path)
        rows = [row for row in lines if row['step'] <= step]
        files.write_lines(path, rows)
        with files.writing(path):
            self._file = path.open('ab', buffering=0)
        folder = path.with_name('tensorboard')
        with files.writing(folder):
            for old in folder.glob('events.out.tfevents.*'):
                old.unlink()
            self._events = EventFile(folder)
        self._reporters = start_trackers(rows, [row for row in lines if row['step'] > step])
        for row in rows:
            self._events.write(int(row.pop('step')), row)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends the values of a step; raises UserError where the disk is full."""
        if not self._writes:
            return
        line = json.dumps({'step': step, **values}) + '\n'
        with files.writing(self._path):
            rest = memoryview(line.encode())
            while rest:
                rest = rest[self._file.write(rest) :]
        self._events.write(step, values)
        for reporter in self._reporters:
            reporter.write(step, values)

    def close(self, *, failed: bool = False, stopped: bool = False) -> None:
        """Closes both files and ends the trackers, for which it waits a while.

        Args:
          failed: whether the run ends by an error.
          stopped: whether it was told to stop, and by whoever does not wait for long.
        """
        if not self._writes:
            return
        self._file.close()
        self._events.close()
        for reporter in self._reporters:
            seconds = STOPPED_SECONDS if failed or stopped else LAST_SECONDS
            reporter.close(failed=failed, seconds=seconds)


class EventFile:
    """Writes scalars for TensorBoard, in the thread that calls it.

    `SummaryWriter` writes in a thread of its own. That one dies silently on a full disk, and
    training then waits for it for ever.
    """

    def __init__(self, folder: pathlib.Path):
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        self._path = folder / f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}'
        self._records = RecordWriter(str(self._path))
        self._next_flush = 0.0
        self._write(file_version='brain.Event:2')

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of a step; raises UserError where the disk is full."""
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=Summary(value=scalars))

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with files.writing(self._path):
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
            if time.monotonic() >= self._next_flush:
                self._records.flush()
                self._next_flush = time.monotonic() + _FLUSH_SECONDS

    def close(self) -> None:
        """Closes the file; what a full disk cannot take is lost, since metrics.jsonl has it."""
        with contextlib.suppress(OSError):
            self._records.close()


@dataclasses.dataclass
class Clock:
    """Counts training time and tokens; compilation, evaluation and checkpoints do not count.

    Its state goes into the checkpoint, so that a resumed run continues it.

    Attributes:
      seconds: seconds of training up to the last stop.
      tokens: tokens trained on, without padding.
      data_seconds: seconds spent waiting for batches.
    """

    seconds: float = 0.0
    tokens: int = 0
    data_seconds: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        """Starts counting."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops counting; does nothing while stopped."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Adds the time within to `data_seconds`."""
        begin = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - begin

    def lap(self) -> float:
        """Returns the seconds so far, while running too."""
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def state(self) -> dict[str, float]:
        """Returns what a checkpoint holds of the clock."""
        return {'seconds': self.lap(), 'tokens': self.tokens, 'data_seconds': self.data_seconds}


def _check_finite(step: int, values: dict[str, float]) -> None:
    """Raises UserError, in every process alike, when nothing is left to train on or to save."""
    loss, norm = values['loss'], values['gradient_norm']
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f'step {step} has loss {loss} and gradient norm {norm}; it is not saved, earlier '
            'checkpoints are',
            fix='lower --config.optimizer.learning_rate (a new --workdir), or look at the records '
            'of that step',
        )


class MetricsLogger:
    """Turns device metrics into lines of `metrics.jsonl`, one step late so that nothing waits."""

    def __init__(self, config: RunConfig, file: MetricsFile, clock: Clock, bar: tqdm):
        self._file, self._clock, self._bar = file, clock, bar
        self._interval, self._last_step = config.log_interval, config.steps
        # Computed beforehand: a device computation at each line would wait for the running step.
        schedule = optimizer_lib.schedule(config.optimizer)
        with jax.transfer_guard('allow'):
            self._learning_rates = np.asarray(jax.vmap(schedule)(np.arange(config.steps)))
        self._pending: tuple[int, dict] | None = None
        # Seconds, tokens and target tokens when the last line was written.
        self._last_line = (clock.lap(), clock.tokens, 0)
        self._target_tokens = 0

    def push(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step and writes those of the step before.

        Raises UserError for a loss or gradient norm of that step that is not finite.
        """
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Waits for the pending step; writes its line if the log interval asks for one."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        _check_finite(step, values)
        self._clock.tokens += int(values.pop('tokens'))
        self._target_tokens += int(values.pop('targets'))
        self._bar.update(1)
        if step % self._interval and step != self._last_step:
            return
        seconds, tokens, target_tokens = self._last_line
        elapsed = max(self._clock.lap() - seconds, 1e-9)
        self._last_line = (self._clock.lap(), self._clock.tokens, self._target_tokens)
        tokens_per_second = (self._clock.tokens - tokens) / elapsed
        values |= {
            'learning_rate': float(self._learning_rates[step - 1]),
            'tokens_per_second': tokens_per_second,
            'target_tokens_per_second': (self._target_tokens - target_tokens) / elapsed,
            'tokens': self._clock.tokens,
            'seconds': self._clock.lap(),
            'data_wait_share': self._clock.data_seconds / max(self._clock.lap(), 1e-9),
        }
        self._file.write(step, values)
        self._bar.set_postfix_str(
            f'loss {values["loss"]:.4f}, {tokens_per_second:,.0f} tokens/s', refresh=False
        )


class Trace:
    """Writes the profiler's trace of some steps below `folder`.

    TensorBoard's profile plugin, xprof and Perfetto read it. The first traced step begins with an
    idle device, and the last one has ended when the trace does.
    """

    def __init__(self, steps: range, folder: pathlib.Path):
        self._steps, self._folder, self._running = steps, folder, False

    def begin(self, step: int, state: Any) -> None:
        """Starts the trace before its first step, once `state` is computed."""
        if step in self._steps and not self._running:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def end(self, step: int, state: Any) -> None:
        """Ends the trace after its last step, once `state` is computed."""
        if self._running and step + 1 not in self._steps:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
