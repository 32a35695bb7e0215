"""Processes: who belongs to a run, joined before a device is touched; process 0 alone writes files.

`start` looks at the environment, first match:

    BSFT_COORDINATOR=HOST:PORT BSFT_PROCESSES=N BSFT_PROCESS=I     `launch/local.py`, or by hand
    SLURM_STEP_NUM_TASKS, SLURM_PROCID, …                          a Slurm step of several tasks
    JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES JAX_PROCESS_ID       Kubernetes
    TPU_WORKER_HOSTNAMES with several names, BSFT_DISTRIBUTED=1    what jax finds out itself, on TPU hosts

and otherwise the run is one process. `BSFT_JOIN_SECONDS` (300) is how long a start waits for all of them.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

from bsft_jax.errors import UserError

JOIN_SECONDS = 300
_RETRY_SECONDS = 0.2
_SILENCE_SECONDS = 1.0  # that somebody at the port may keep the others waiting


@dataclasses.dataclass(frozen=True)
class Membership:
    """What a process knows of the run it belongs to, before it has met the others.

    Attributes:
      coordinator: HOST:PORT where process 0 listens.
      count: processes of the run.
      index: of this one.
      local_devices: ids of the cards on this host that are its own; None for all that it sees.
    """

    coordinator: str
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None


def membership(env: Mapping[str, str]) -> Membership | None:
    """What the environment says; None for one process, or where jax is to find out.

    Raises UserError for variables that are incomplete or no numbers.
    """
    if 'BSFT_COORDINATOR' in env:
        return _named(env, 'BSFT_COORDINATOR', 'BSFT_PROCESSES', 'BSFT_PROCESS')
    if _integer(env, 'SLURM_STEP_NUM_TASKS', '1') > 1:
        return _slurm(env)
    if 'JAX_COORDINATOR_ADDRESS' in env and 'JAX_NUM_PROCESSES' in env:
        return _named(env, 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    return None


def _integer(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    value = env.get(name, default)
    if value is None or not value.isdigit():
        raise UserError(f'{value!r} is not a number' if value else 'is not set', where=name)
    return int(value)


def _named(env: Mapping[str, str], coordinator: str, count: str, index: str) -> Membership | None:
    address = env[coordinator]
    if not re.fullmatch(r'.+:\d+', address):
        raise UserError(f'{address!r} is not HOST:PORT', where=coordinator)
    found = Membership(address, _integer(env, count), _integer(env, index))
    if not found.index < found.count:
        raise UserError(f'{found.index} is not below {count}={found.count}', where=index)
    return found if found.count > 1 else None


def _slurm(env: Mapping[str, str]) -> Membership:
    """A task of a step. One task a node has all cards of the node; else each has that of its number."""
    count, index = _integer(env, 'SLURM_STEP_NUM_TASKS'), _integer(env, 'SLURM_PROCID')
    address = env.get('JAX_COORDINATOR_ADDRESS')
    if not address:
        nodes = env.get('SLURM_STEP_NODELIST', '')
        port = 61_440 + _integer(env, 'SLURM_JOB_ID') % 4096  # as jax chooses it: jobs do not meet
        address = f'{first_host(nodes)}:{port}'
    alone = re.fullmatch(r'1(\(x\d+\))?', env.get('SLURM_STEP_TASKS_PER_NODE', ''))
    return Membership(address, count, index, None if alone else (_integer(env, 'SLURM_LOCALID'),))


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list such as `tpu[003-007,9],gpu1`."""
    match = re.match(r'([^\[,]+)(?:\[([^\],-]+))?', nodes)
    if not match:
        raise UserError(f'{nodes!r} names no node', where='SLURM_STEP_NODELIST')
    return match[1] + (match[2] or '')


def start(*, stopping: bool = False) -> None:
    """Joins the processes of this run where the environment names several; prints who is there.

    Args:
      stopping: whether the app asks jax if it was told to stop; else SIGTERM ends a process at once.

    Raises UserError, in every process, naming those that did not join in time.
    """
    import jax

    env = os.environ
    found = membership(env)
    seconds = _integer(env, 'BSFT_JOIN_SECONDS', str(JOIN_SECONDS))
    hosts = {}
    if found is not None:
        hosts = roll_call(found, seconds)
        jax.distributed.initialize(
            found.coordinator, found.count, found.index,
            local_device_ids=found.local_devices, initialization_timeout=seconds,
            cluster_detection_method='deactivate',  # or jax, in a Slurm step, takes one card of those that None means
        )  # fmt: skip
    elif env.get('BSFT_DISTRIBUTED') == '1' or ',' in env.get('TPU_WORKER_HOSTNAMES', ''):
        jax.distributed.initialize(initialization_timeout=seconds)
    if jax.distributed.is_initialized():
        if not stopping:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # jax has its own there by now
        say(table(jax.devices(), hosts))
        if not _share_a_cache():
            keep_nothing_compiled()


def keep_nothing_compiled() -> None:
    """From here on this process keeps no compiled programs and reads none."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # jax has read the setting when it first compiled


def _share_a_cache() -> bool:
    """Whether all processes find the same compiled programs.

    Where they do not, process 0 alone has kept them, and would not be there when the others, compiling on GPUs, ask it
    for its part of the autotuning: they would wait for ever.
    """
    import jax
    from jax.experimental import multihost_utils

    folder = jax.config.jax_compilation_cache_dir
    if jax.process_count() == 1 or not folder or '://' in folder:
        return True
    number = multihost_utils.broadcast_one_to_all(np.uint32(int.from_bytes(os.urandom(4))))
    mark = pathlib.Path(folder) / f'.shared-{number:08x}'
    if is_first():
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    barrier('cache')
    shared = all_agree(mark.exists())
    if is_first():
        mark.unlink(missing_ok=True)
    return shared


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks; asks no device of a single process."""
    import jax

    return not jax.distributed.is_initialized() or jax.process_index() == 0


def say(text: str, *, file: TextIO | None = None) -> None:
    """Prints a line (to stderr, or `file`) in process 0."""
    if is_first():
        print(text, file=file or sys.stderr)


def barrier(name: str) -> None:
    """Waits until every process is here; `name` is the place, the same in all."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def all_agree(good: bool) -> bool:
    """Whether every process says so; each of them has to ask."""
    return bool(least(good))


def all_equal(value: Any) -> bool:
    """Whether every process has the same, by its JSON; each of them has to ask."""
    mark = float(zlib.crc32(json.dumps(value).encode()) >> 8)  # exact in float32
    return least(mark) == -least(-mark)


def least(value: float) -> float:
    """The smallest that any process has, to the precision of float32; each of them has to ask."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return value
    return float(np.min(multihost_utils.process_allgather(np.float32(value))))


def table(devices: list[Any], hosts: Mapping[int, str]) -> str:
    """A line per process: number, host (where known), its devices."""
    kinds = collections.defaultdict(collections.Counter)
    for device in devices:
        kinds[device.process_index][device.device_kind] += 1
    lines = [f'{"process":<9}{"host":<24}devices']
    for index in sorted(kinds):
        there = ', '.join(f'{number} × {kind}' for kind, number in kinds[index].items())
        lines.append(f'{index:<9}{hosts.get(index, "-"):<24}{there}')
    return '\n'.join([*lines, f'{len(devices)} devices of {len(kinds)} processes'])


def roll_call(found: Membership, seconds: float) -> dict[int, str]:
    """Meets every process at the coordinator's port before jax does, so that a missing one has a name.

    (jax itself aborts every process there, without a word of which one is missing.)

    Returns the host names by process, in process 0; nothing elsewhere. Raises UserError after `seconds`.
    """
    host, _, port = found.coordinator.rpartition(':')
    deadline = time.monotonic() + seconds
    if found.index == 0:
        return _call(found, int(port), deadline, seconds)
    problem = _answer(found, (host, int(port)), deadline)
    if problem is None:
        problem = f'process 0 did not answer within {seconds:g} s'
    if problem:
        raise UserError(problem, where=found.coordinator, fix='look at what the missing ones say')
    return {}


def _call(found: Membership, port: int, deadline: float, seconds: float) -> dict[int, str]:
    """Process 0 waits for the others and tells all of them who is missing: nobody, in the good case."""
    hosts, lines = {0: socket.gethostname()}, {}
    try:
        listener = socket.create_server(('', port), backlog=found.count)
    except OSError as error:
        raise UserError(f'cannot listen ({error.strerror})', where=found.coordinator) from error
    with listener:
        while len(hosts) < found.count and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                line, _ = listener.accept()
                line.settimeout(max(0.1, min(left, _SILENCE_SECONDS)))
                index, name = line.recv(300).decode().split(' ', 1)
                index = range(1, found.count).index(int(index)) + 1
            except (OSError, ValueError):  # nobody in time, or somebody else at this port
                continue
            hosts[index] = name.strip()
            lines[index] = line
        missing = sorted(set(range(found.count)) - hosts.keys())
        problem = ''
        if missing:
            names = ', '.join(map(str, missing[:20])) + (', …' if len(missing) > 20 else '')
            problem = f'process {names} of {found.count} did not join within {seconds:g} s'
        for line in lines.values():
            try:
                line.sendall(f'{problem}\n'.encode())
                line.recv(1)  # the other side hangs up first, so that the port is free at once
            except OSError:
                continue
            finally:
                line.close()
    if problem:
        raise UserError(problem, where=found.coordinator, fix='look at what the missing ones say')
    return hosts


def _answer(found: Membership, address: tuple[str, int], deadline: float) -> str | None:
    """What process 0 says: an empty line when all are there; None when it did not answer in time."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=left) as line:
                line.sendall(f'{found.index} {socket.gethostname()}\n'.encode())
                line.settimeout(left + 10.0)  # process 0 speaks at its own deadline
                with line.makefile(encoding='utf-8') as words:
                    said = words.readline()
                if said:
                    return said.strip()
        except OSError:
            pass
        time.sleep(_RETRY_SECONDS)
    return None
