"""Contestants side by side: each in a process of its own, measured in turns, so that a busy machine is as busy for all.

A contestant is a function that sets up and returns a `turn`, which does its work once and waits for it. It may return
how much that was, or the seconds of its parts by name.
"""

from __future__ import annotations

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

ROOT = output.ROOT

flags.disclaim_key_flags()


Turn = Callable[[], Any]


class Contest:
    """A benchmark beside peers: its flags, its workers and its file.

    Args:
      module: of the benchmark, which its workers run as well.
      makers: contestant → what sets it up from the fields of a question and returns its `turn`.
      turns: default of `--turns`.
      result: default of `--output`.
    """

    def __init__(self, module: str, makers: Mapping[str, Callable[..., Turn]], *, turns: int, result: str):
        self._module, self._makers = module, makers
        self._turns = flags.DEFINE_integer('turns', turns, 'Turns of each.', lower_bound=1)
        self._threads = flags.DEFINE_integer('threads', 2, 'Threads of each.', lower_bound=1)
        self._output = flags.DEFINE_string('output', f'benchmarks/results/{result}.json', 'File to write.')
        self._contestant = flags.DEFINE_string('contestant', '', 'Set by the benchmark itself.')
        self._question = flags.DEFINE_string('question', '', 'Set by the benchmark itself.')

    def run(self, compare: Callable[[], None]) -> None:
        """The command: `compare` calls the contest for each of its questions, and `write` at the end."""

        def main(argv) -> None:
            del argv
            if not self._contestant.value:
                compare()
                return
            make, question = self._makers[self._contestant.value], json.loads(self._question.value)
            _answer(lambda: make(**question))

        cli.run(main)

    def __call__(
        self, question: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """Measures each contestant over so many turns, after a first one with its set-up.

        Of each: `seconds` of the median turn and `first_seconds`; `work_per_second` of all turns together, or the
        median of each part, as turns return them; `held_bytes` of its process after the set-up, `peak_bytes` from
        there on.
        """
        names = list(names or self._makers)
        return _contest(self._module, names, question, self._turns.value, self._threads.value)

    def write(self, packages: tuple[str, ...], chosen: Sequence[flags.FlagHolder] = (), **found: Any) -> None:
        """Writes what was found, with the command: those of its flags that may be `chosen`."""
        output.write(
            self._output.value, output.command(self._module, (*chosen, self._turns)), packages,
            device=f'cpu, {self._threads.value} threads', turns=self._turns.value, **found,
        )  # fmt: skip


def environment(threads: int) -> dict[str, str]:
    """That of the launch scripts, with their malloc settings, and so many threads for everyone."""
    script = (ROOT / 'launch' / '_env.sh').read_text()
    tunables = re.search(r'GLIBC_TUNABLES:-([^}]+)\}', script)[1]
    return {
        **os.environ,
        'GLIBC_TUNABLES': tunables,
        'OMP_NUM_THREADS': str(threads),
        'JAX_PLATFORMS': 'cpu',
        'TOKENIZERS_PARALLELISM': 'false',
    }


def _contest(module: str, names: list[str], question: Mapping[str, Any], turns: int, threads: int):
    found, workers = {}, {}
    try:
        for name in names:
            workers[name] = subprocess.Popen(
                [sys.executable, '-m', module, f'--contestant={name}', f'--question={json.dumps(question)}'],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=ROOT,
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
        raise SystemExit(f'error: {name} ended before its turn was over')
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
            held = _bytes('VmRSS')
        work = turn()
        seconds = time.perf_counter() - start
        answered = {'seconds': seconds, 'work': work, 'held_bytes': held, 'peak_bytes': _bytes('VmHWM')}
        out.write(json.dumps(answered) + '\n')
        out.flush()


def _bytes(field: str) -> int:
    status = pathlib.Path('/proc/self/status').read_text()
    return int(re.search(rf'{field}:\s+(\d+) kB', status)[1]) * 1024
