"""Contestants side by side: each in a process of its own, measured in turns, so that a busy machine is as busy for all.

A contestant is a function that sets up and returns a `turn`, which does its work once and waits for it. It may return
how much that was, or the seconds of its parts by name. On a GPU, whose memory is for one at a time, contestants come
one after the other, and memory is what their framework took of the card.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks import output
from bsft_jax import cli
from bsft_jax.errors import UserError

ROOT = output.ROOT

flags.disclaim_key_flags()


Turn = Callable[[], Any]


class Contest:
    """A benchmark beside peers: its flags, its workers and its file.

    Args:
      module: of the benchmark, which its workers run as well.
      makers: contestant → what sets it up from the fields of a question and returns its `turn`.
      turns: default of `--turns`.
      result: name of the file in `benchmarks/results`, the default of `--output`; with `devices` these follow it.
      devices: what it can run on, the first by default; `--device` chooses.
    """

    def __init__(
        self,
        module: str,
        makers: Mapping[str, Callable[..., Turn]],
        *,
        turns: int,
        result: str,
        devices: Sequence[str] = (),
    ):
        self._module, self._makers, self._result = module, makers, result
        self._devices = devices
        if devices:
            self._device = flags.DEFINE_enum('device', devices[0], devices, 'Where, and so at which sizes.')
        self._turns = flags.DEFINE_integer('turns', turns, 'Turns of each.', lower_bound=1)
        self._threads = flags.DEFINE_integer('threads', 2, 'Threads of each.', lower_bound=1)
        self._output = flags.DEFINE_string(
            'output',
            '',
            f'File to write; default benchmarks/results/{result}{"_DEVICE" if devices else ""}.json.',
        )
        self._contestant = flags.DEFINE_string('contestant', '', 'Set by the benchmark itself.')
        self._question = flags.DEFINE_string('question', '', 'Set by the benchmark itself.')

    def run(self, compare: Callable[[], None]) -> None:
        """The command: `compare` calls the contest for each of its questions, and `write` at the end."""

        def main(argv) -> None:
            del argv
            if not self._contestant.value:
                import jax

                jax.config.update('jax_platforms', 'cpu')  # the card is for the contestants
                if self.device == 'gpu':
                    _card()
                compare()
                return
            make, question = self._makers[self._contestant.value], json.loads(self._question.value)
            _answer(lambda: make(**question))

        cli.run(main)

    @property
    def device(self) -> str:
        return self._device.value if self._devices else 'cpu'

    def __call__(
        self, question: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """Measures each contestant over so many turns, after a first one with its set-up.

        Of each: `seconds` of the median turn and `first_seconds`; `work_per_second` of all turns together, or the
        median of each part, as turns return them; `held_bytes` of its process after the set-up, `peak_bytes` from
        there on.
        """
        names = list(names or self._makers)
        run = functools.partial(
            _contest, self._module, question=question, turns=self._turns.value,
            env=environment(self._threads.value, self.device),
        )  # fmt: skip
        if self.device == 'cpu':
            return run(names)
        found = {}
        for name in names:
            try:
                found |= run([name])
            except Ended as ended:
                print(ended, flush=True)  # out of the card's memory, most likely: the rest goes on
        return found

    def write(self, packages: tuple[str, ...], chosen: Sequence[flags.FlagHolder] = (), **found: Any) -> None:
        """Writes what was found, with the command: those of its flags that may be `chosen`."""
        suffix = f'_{self.device}' if self._devices else ''
        if self._devices:
            chosen = (self._device, *chosen)
        output.write(
            self._output.value or f'benchmarks/results/{self._result}{suffix}.json',
            output.command(self._module, (*chosen, self._turns)), packages,
            device=f'cpu, {self._threads.value} threads' if self.device == 'cpu' else _card(),
            turns=self._turns.value, **found,
        )  # fmt: skip


class Ended(SystemExit):
    """A contestant's process ended before its turn was over."""


def environment(threads: int, device: str = 'cpu') -> dict[str, str]:
    """That of the launch scripts, with their malloc settings, and so many threads for everyone."""
    script = (ROOT / 'launch' / '_env.sh').read_text()
    tunables = re.search(r'GLIBC_TUNABLES:-([^}]+)\}', script)[1]
    return {
        **os.environ,
        'GLIBC_TUNABLES': tunables,
        'OMP_NUM_THREADS': str(threads),
        'JAX_PLATFORMS': {'gpu': 'cuda'}.get(device, device),
        'TOKENIZERS_PARALLELISM': 'false',
    }


def _contest(module: str, names: list[str], question: Mapping[str, Any], turns: int, env: Mapping[str, str]):
    found, workers = {}, {}
    try:
        for name in names:
            workers[name] = subprocess.Popen(
                [sys.executable, '-m', module, f'--contestant={name}', f'--question={json.dumps(question)}'],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT,
            )  # fmt: skip
            found[name] = _ask(name, workers[name])
        answers = {name: [] for name in names}
        for _ in range(turns):
            for name in names:
                answers[name].append(_ask(name, workers[name]))
        for name in names:
            found[name]['first_seconds'] = found[name].pop('seconds')
            seconds = [answer['seconds'] for answer in answers[name]]
            found[name] |= {
                'seconds': statistics.median(seconds),
                'peak_bytes': answers[name][-1]['peak_bytes'],
            }
            done = [answer['work'] for answer in answers[name]]
            if isinstance(found[name].pop('work'), dict):
                found[name] |= {part: statistics.median(one[part] for one in done) for part in done[0]}
            elif done[0] is not None:
                found[name]['work_per_second'] = sum(done) / sum(seconds)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return found


def _ask(name: str, worker: subprocess.Popen) -> dict[str, float]:
    worker.stdin.write('turn\n')
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise Ended(f'error: {name} ended before its turn was over')
    return json.loads(line)


def _answer(make_turn: Callable[[], Turn]) -> None:
    """The worker's side: sets up with the first request, takes one turn with each."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not be read as an answer
    turn = None
    for _ in sys.stdin:
        start = time.perf_counter()
        if turn is None:
            turn = make_turn()
            pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
            held, _ = _memory()
        work = turn()
        seconds = time.perf_counter() - start
        answered = {'seconds': seconds, 'work': work, 'held_bytes': held, 'peak_bytes': _memory()[1]}
        out.write(json.dumps(answered) + '\n')
        out.flush()


def _memory() -> tuple[int, int]:
    """Bytes held and at the peak: of the process, or what its framework took of the card since it began."""
    if os.environ['JAX_PLATFORMS'] == 'cpu':
        status = pathlib.Path('/proc/self/status').read_text()
        held, peak = (re.search(rf'{field}:\s+(\d+) kB', status)[1] for field in ('VmRSS', 'VmHWM'))
        return int(held) * 1024, int(peak) * 1024
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return stats['bytes_in_use'], stats['peak_bytes_in_use']


def _card() -> str:
    """Its name and driver; raises UserError where there is none."""
    asked = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError('nvidia-smi finds no card', where='--device=gpu') from error
    return found.stdout.strip().splitlines()[0]
