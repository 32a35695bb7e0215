"""metrics.jsonl with its copy for TensorBoard, the clock, the profiler's trace and the progress bar."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Any

import jax
from tqdm import tqdm

_FLUSH_SECONDS = 10


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, each with its `step`; the same scalars in `tensorboard/`.

    Opening it for a run that continues at `step` drops lines beyond that step and a torn last line,
    and writes the event files of TensorBoard anew from the lines that stay. Without `writes` (every process
    but the first) it touches no file.
    """

    def __init__(self, path: pathlib.Path, step: int, *, writes: bool = True):
        self._writes, lines = writes, []
        if not writes:
            return
        from tensorboardX import SummaryWriter

        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)['step'] <= step:
                        lines.append(line)
                except (ValueError, KeyError):
                    continue
        partial = path.with_suffix('.partial')
        partial.write_text(''.join(line + '\n' for line in lines))
        os.replace(partial, path)
        self._file = path.open('a')
        folder = path.with_name('tensorboard')
        for old in folder.glob('events.out.tfevents.*'):
            old.unlink()
        self._events = SummaryWriter(str(folder), flush_secs=_FLUSH_SECONDS)
        for line in lines:
            values = json.loads(line)
            self._write_events(values.pop('step'), values)

    def _write_events(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        self._file.write(json.dumps({'step': step, **values}) + '\n')
        self._file.flush()
        self._write_events(step, values)

    def close(self) -> None:
        if not self._writes:
            return
        self._file.close()
        self._events.close()


@dataclasses.dataclass
class Clock:
    """Training time and tokens so far; compilation, evaluation and checkpoints do not count.

    `seconds` and `tokens` (without padding) go into the checkpoint, so that they continue on resume.
    """

    seconds: float = 0.0
    tokens: int = 0
    data_seconds: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def lap(self) -> float:
        """Seconds so far, running."""
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def state(self) -> dict[str, float]:
        return {'seconds': self.lap(), 'tokens': self.tokens, 'data_seconds': self.data_seconds}


class Trace:
    """The profiler's trace of some steps, below `folder`: for TensorBoard's profile plugin, xprof and Perfetto.

    The first step that is traced begins with an idle device, and the last one ends before the trace does.
    """

    def __init__(self, steps: range, folder: pathlib.Path):
        self._steps, self._folder, self._running = steps, folder, False

    def begin(self, step: int, state: Any) -> None:
        """Before a step from `state`."""
        if step in self._steps and not self._running:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def end(self, step: int, state: Any) -> None:
        """After the step that gives `state`."""
        if self._running and step + 1 not in self._steps:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def progress(description: str, total: int, initial: int = 0, *, shown: bool = True) -> tqdm:
    """A progress bar with rate and time left; off a terminal it prints a line about every half minute."""
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        dynamic_ncols=terminal,
        mininterval=0.5 if terminal else 30,
        maxinterval=1 if terminal else 60,
        ncols=None if terminal else 110,
        file=sys.stderr,
        disable=not shown,
    )
