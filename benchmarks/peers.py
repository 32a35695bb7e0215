"""Measures contestants side by side, each in a process of its own, in turns.

Taking turns makes a busy machine equally busy for all contestants. A contestant is a function that
sets up and returns a `turn`. A turn does its work once, waits for it to finish, and may return the
amount of work, or the seconds of its parts by name. On a GPU, whose memory holds one contestant,
they run one after the other, and memory is what their framework allocated on the GPU.
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

# The flags defined here count as those of the benchmark, so that its --help lists them.
flags.disclaim_key_flags()

Turn = Callable[[], Any]


class Contest:
    """Runs a benchmark with contestants: its flags, its worker processes and its result file.

    Args:
      module: module of the benchmark; worker processes run it too.
      makers: maps each contestant to the function that sets it up from the fields of a question and
        returns its `turn`.
      turns: default of `--turns`.
      result: name of the file in `benchmarks/results` that `--output` defaults to. With `devices`
        the device is appended.
      devices: devices that the benchmark can run on. `--device` chooses one; the default is the
        first.
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
            self._device = flags.DEFINE_enum(
                'device', devices[0], devices, 'Device to run on; sizes depend on it.'
            )
        self._turns = flags.DEFINE_integer('turns', turns, 'Turns of each.', lower_bound=1)
        self._threads = flags.DEFINE_integer('threads', 2, 'Threads of each.', lower_bound=1)
        suffix = '_DEVICE' if devices else ''
        self._output = flags.DEFINE_string(
            'output', '', f'File to write; default benchmarks/results/{result}{suffix}.json.'
        )
        self._contestant = flags.DEFINE_string('contestant', '', 'Set by the benchmark itself.')
        self._question = flags.DEFINE_string('question', '', 'Set by the benchmark itself.')

    def run(self, compare: Callable[[], None]) -> None:
        """Runs the command.

        `compare` calls the contest for each of its questions, and `write` at the end. In a worker
        process the contestant answers instead.
        """

        def main(argv) -> None:
            del argv
            if not self._contestant.value:
                import jax

                # The GPU is for the contestants.
                jax.config.update('jax_platforms', 'cpu')
                if self.device == 'gpu':
                    _gpu_name()
                compare()
                return
            make, question = self._makers[self._contestant.value], json.loads(self._question.value)
            _answer_requests(lambda: make(**question))

        cli.run(main)

    @property
    def device(self) -> str:
        """Returns the device that the contestants run on."""
        return self._device.value if self._devices else 'cpu'

    def __call__(
        self, question: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """Runs the contestants on a question, over `--turns` turns after a first one.

        The first turn includes the set-up.

        Args:
          question: fields of the question, which JSON can hold.
          names: contestants to measure; None takes all.

        Returns:
          For each contestant `seconds` of the median turn and `first_seconds`; `work_per_second` of
          all turns together, or the median of each part, as its turns return them; `held_bytes` of
          its process after the set-up, and `peak_bytes` from there on. A contestant that ended
          early on a GPU is left out.
        """
        names = list(names or self._makers)
        run = functools.partial(
            _measure_contestants,
            self._module,
            question=question,
            turns=self._turns.value,
            env=environment(self._threads.value, self.device),
        )
        if self.device == 'cpu':
            return run(names)
        results = {}
        for name in names:
            try:
                results |= run([name])
            except ContestantEnded as ended:
                # Most likely the GPU ran out of memory; the others can still be measured.
                print(ended, flush=True)
        return results

    def write(
        self,
        packages: tuple[str, ...],
        flag_holders: Sequence[flags.FlagHolder] = (),
        **values: Any,
    ) -> None:
        """Writes the result file; its command has those of `flag_holders` that were changed."""
        suffix = f'_{self.device}' if self._devices else ''
        if self._devices:
            flag_holders = (self._device, *flag_holders)
        output.write(
            self._output.value or f'benchmarks/results/{self._result}{suffix}.json',
            output.command(self._module, (*flag_holders, self._turns)),
            packages,
            device=(f'cpu, {self._threads.value} threads' if self.device == 'cpu' else _gpu_name()),
            turns=self._turns.value,
            **values,
        )


class ContestantEnded(SystemExit):
    """Represents the end of a contestant's process before its turn was over."""


def environment(threads: int, device: str = 'cpu') -> dict[str, str]:
    """Returns a worker's environment, with the malloc settings of the launch scripts."""
    script = (ROOT / 'launch' / '_env.sh').read_text()
    tunables = re.search(r'GLIBC_TUNABLES:-([^}]+)\}', script)[1]
    return {
        **os.environ,
        'GLIBC_TUNABLES': tunables,
        'OMP_NUM_THREADS': str(threads),
        'JAX_PLATFORMS': {'gpu': 'cuda'}.get(device, device),
        'TOKENIZERS_PARALLELISM': 'false',
    }


def _measure_contestants(
    module: str, names: list[str], question: Mapping[str, Any], turns: int, env: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Starts a worker for each contestant, lets them take turns and summarizes their answers."""
    results, workers = {}, {}
    try:
        for name in names:
            arguments = [f'--contestant={name}', f'--question={json.dumps(question)}']
            workers[name] = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
                cwd=ROOT,
            )
            results[name] = _request_turn(name, workers[name])
        answers = {name: [] for name in names}
        for _ in range(turns):
            for name in names:
                answers[name].append(_request_turn(name, workers[name]))
        for name in names:
            results[name] = _summarize(results[name], answers[name])
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return results


def _summarize(first: dict[str, Any], answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the values of a contestant, from the answer to its first turn and to all others."""
    seconds = [answer['seconds'] for answer in answers]
    summary = {
        'held_bytes': first['held_bytes'],
        'peak_bytes': answers[-1]['peak_bytes'],
        'first_seconds': first['seconds'],
        'seconds': statistics.median(seconds),
    }
    work = [answer['work'] for answer in answers]
    if isinstance(first['work'], dict):
        summary |= {part: statistics.median(one[part] for one in work) for part in work[0]}
    elif work[0] is not None:
        summary['work_per_second'] = sum(work) / sum(seconds)
    return summary


def _request_turn(name: str, worker: subprocess.Popen) -> dict[str, Any]:
    worker.stdin.write('turn\n')
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise ContestantEnded(f'error: {name} ended before its turn was over')
    return json.loads(line)


def _answer_requests(make_turn: Callable[[], Turn]) -> None:
    """Takes a turn for each line of standard input, in a worker; the first one also sets up."""
    # Libraries print too; only answers may reach the original standard output.
    answers, sys.stdout = sys.stdout, sys.stderr
    turn = None
    for _ in sys.stdin:
        start = time.perf_counter()
        if turn is None:
            turn = make_turn()
            # Resets the peak memory of the process.
            pathlib.Path('/proc/self/clear_refs').write_text('5')
            setup_bytes, _ = _memory_bytes()
        work = turn()
        seconds = time.perf_counter() - start
        answer = {
            'seconds': seconds,
            'work': work,
            'held_bytes': setup_bytes,
            'peak_bytes': _memory_bytes()[1],
        }
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


def _memory_bytes() -> tuple[int, int]:
    """Returns (bytes now, bytes at the peak) of the process, or of its framework on the GPU."""
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


def _gpu_name() -> str:
    """Returns the name and driver of the GPU; raises UserError if there is none."""
    command = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError('nvidia-smi finds no GPU', where='--device=gpu') from error
    return done.stdout.strip().splitlines()[0]
