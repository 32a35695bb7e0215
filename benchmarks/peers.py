"""Contestants side by side: each in a process of its own, measured in turns, so that a busy machine is as busy for all.

A contestant is a function that sets up and returns a `turn`, which does its work once and waits for it.
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
from collections.abc import Callable, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


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


def contest(
    module: str, names: list[str], question: Mapping[str, Any], turns: int, threads: int
) -> dict[str, dict[str, float]]:
    """Of each contestant: seconds of the median turn, and of the first with its set-up; bytes that its process held after
    the set-up, and the most that it held from there on.

    `module` is run as `python -m MODULE` and calls `answer` there, with a contestant's name and the question.
    """
    found, workers = {}, {}
    try:
        for name in names:
            workers[name] = subprocess.Popen(
                [sys.executable, '-m', module, f'--contestant={name}', f'--question={json.dumps(question)}'],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=ROOT,
            )  # fmt: skip
            found[name] = _ask(name, workers[name])
        seconds = {name: [] for name in names}
        for _ in range(turns):
            for name in names:
                answer = _ask(name, workers[name])
                seconds[name].append(answer['seconds'])
                found[name]['peak_bytes'] = answer['peak_bytes']
        for name in names:
            found[name]['first_seconds'] = found[name].pop('seconds')
            found[name]['seconds'] = statistics.median(seconds[name])
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


def answer(make_turn: Callable[[], Callable[[], Any]]) -> None:
    """The worker's side: sets up with the first request, takes one turn with each."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not be read as an answer
    turn = None
    for _ in sys.stdin:
        start = time.perf_counter()
        if turn is None:
            turn = make_turn()
            pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
            held = _bytes('VmRSS')
        turn()
        seconds = time.perf_counter() - start
        out.write(json.dumps({'seconds': seconds, 'held_bytes': held, 'peak_bytes': _bytes('VmHWM')}) + '\n')
        out.flush()


def _bytes(field: str) -> int:
    status = pathlib.Path('/proc/self/status').read_text()
    return int(re.search(rf'{field}:\s+(\d+) kB', status)[1]) * 1024
