"""The processes of a run: they find each other before JAX touches a device; process 0 writes files.

`start` reads the environment. The first match decides:

    BSFT_COORDINATOR=HOST:PORT BSFT_PROCESSES=N BSFT_PROCESS=I   `launch/local.py`, or by hand
    SLURM_STEP_NUM_TASKS, SLURM_PROCID, …                        a Slurm step of several tasks
    JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES JAX_PROCESS_ID     Kubernetes
    TPU_WORKER_HOSTNAMES of several names, BSFT_DISTRIBUTED=1    TPU hosts, detected by JAX

Otherwise the run is one process. `BSFT_JOIN_SECONDS` (300) limits the wait for all of them.
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

from bsft_jax.errors import UserError, printable

JOIN_SECONDS = 300
_RETRY_SECONDS = 0.2
# A connection that sends nothing may delay the roll call this long.
_SILENCE_SECONDS = 1.0
_MAX_NAMED_PROCESSES = 20


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """Describes the run that this process belongs to, before it has met the others.

    Attributes:
      coordinator: HOST:PORT where process 0 listens.
      count: number of processes.
      index: index of this process.
      local_devices: ids of the GPUs of this host that are its own; None for all it can see.
    """

    coordinator: str
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None


def process_group(env: Mapping[str, str]) -> ProcessGroup | None:
    """Returns the group that an environment describes.

    Returns None for a single process, and where JAX detects the group itself. Raises UserError for
    variables that are missing or not numbers.
    """
    if 'BSFT_COORDINATOR' in env:
        return _explicit_group(env, 'BSFT_COORDINATOR', 'BSFT_PROCESSES', 'BSFT_PROCESS')
    if _integer(env, 'SLURM_STEP_NUM_TASKS', '1') > 1:
        return _slurm_group(env)
    if 'JAX_COORDINATOR_ADDRESS' in env and 'JAX_NUM_PROCESSES' in env:
        return _explicit_group(
            env, 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
        )
    return None


def _integer(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    value = env.get(name, default)
    if not value:
        raise UserError('is not set', where=name)
    if not re.fullmatch('[0-9]{1,9}', value):
        raise UserError(f'{value!r} is not a number of at most 9 digits', where=name)
    return int(value)


def _explicit_group(
    env: Mapping[str, str], coordinator: str, count: str, index: str
) -> ProcessGroup | None:
    """Returns the group that three variables describe; None for a single process."""
    address = _address(env, coordinator)
    group = ProcessGroup(address, _integer(env, count), _integer(env, index))
    if not group.index < group.count:
        raise UserError(f'{group.index} is not below {count}={group.count}', where=index)
    return group if group.count > 1 else None


def _address(env: Mapping[str, str], name: str) -> str:
    """Returns an address; raises UserError unless it is a host and a port."""
    match = re.fullmatch(r'(\S+):([0-9]{1,5})', env[name])
    if not match or not 0 < int(match[2]) < 1 << 16:
        raise UserError(
            f'{env[name]!r} is not HOST:PORT', where=name, fix='a port is between 1 and 65535'
        )
    return env[name]


def _slurm_group(env: Mapping[str, str]) -> ProcessGroup:
    """Returns the group of a Slurm step.

    The only task of a node owns all GPUs of the node; otherwise each owns the one of its local
    number.
    """
    count, index = _integer(env, 'SLURM_STEP_NUM_TASKS'), _integer(env, 'SLURM_PROCID')
    if env.get('JAX_COORDINATOR_ADDRESS'):
        address = _address(env, 'JAX_COORDINATOR_ADDRESS')
    else:
        nodes = env.get('SLURM_STEP_NODELIST', '')
        # The port that JAX would choose, so that jobs on one node do not collide.
        port = 61_440 + _integer(env, 'SLURM_JOB_ID') % 4096
        address = f'{first_host(nodes)}:{port}'
    one_per_node = re.fullmatch(r'1(\(x\d+\))?', env.get('SLURM_STEP_TASKS_PER_NODE', ''))
    local_devices = None if one_per_node else (_integer(env, 'SLURM_LOCALID'),)
    return ProcessGroup(address, count, index, local_devices)


def first_host(nodes: str) -> str:
    """Returns the first name of a Slurm node list such as `tpu[003-007,9],gpu1`."""
    match = re.match(r'([^\[,]+)(?:\[([^\],-]+))?', nodes)
    if not match:
        raise UserError(f'{nodes!r} names no node', where='SLURM_STEP_NODELIST')
    return match[1] + (match[2] or '')


def start(*, preemptible: bool = False) -> None:
    """Joins the processes of this run, if there are several, and prints a table of them.

    Args:
      preemptible: whether the command asks JAX if SIGTERM came; otherwise the signal is handled as
        it was before.

    Raises UserError in every process, with the names of those that did not join in time.
    """
    import jax

    env = os.environ
    group = process_group(env)
    seconds = _integer(env, 'BSFT_JOIN_SECONDS', str(JOIN_SECONDS))
    hosts = {}
    if group is not None:
        hosts = roll_call(group, seconds)
        jax.distributed.initialize(
            group.coordinator,
            group.count,
            group.index,
            local_device_ids=group.local_devices,
            initialization_timeout=seconds,
            # In a Slurm step JAX would reduce the GPUs that None means to a single one.
            cluster_detection_method='deactivate',
        )
    elif env.get('BSFT_DISTRIBUTED') == '1' or ',' in env.get('TPU_WORKER_HOSTNAMES', ''):
        jax.distributed.initialize(initialization_timeout=seconds)
    if jax.distributed.is_initialized():
        if not preemptible:
            # JAX has installed a handler of its own, of which Python does not know.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        log_first(format_process_table(jax.devices(), hosts))
        if not _cache_is_shared():
            disable_compilation_cache()


def disable_compilation_cache() -> None:
    """Stops this process from storing compiled programs and from reading stored ones."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update('jax_enable_compilation_cache', False)
    # JAX reads the setting only at its first compilation.
    compilation_cache.reset_cache()


def _cache_is_shared() -> bool:
    """Returns whether all processes see the same folder of compiled programs.

    Only process 0 stores programs. If the others cannot find them, they compile; on GPUs they then
    wait forever for process 0, which has nothing to compile, to do its part of the autotuning.
    """
    import jax
    from jax.experimental import multihost_utils

    folder = jax.config.jax_compilation_cache_dir
    if jax.process_count() == 1 or not folder or '://' in folder:
        return True
    number = multihost_utils.broadcast_one_to_all(np.uint32(int.from_bytes(os.urandom(4))))
    marker = pathlib.Path(folder) / f'.shared-{number:08x}'
    if is_first():
        with contextlib.suppress(OSError):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
    barrier('cache')
    shared = all_true(marker.exists())
    if is_first():
        marker.unlink(missing_ok=True)
    return shared


def is_first() -> bool:
    """Returns whether this is process 0, the one that writes files and logs.

    A single process touches no device for it, and imports no JAX.
    """
    jax = sys.modules.get('jax')
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def log_first(text: str, *, file: TextIO | None = None) -> None:
    """Prints text in process 0, to stderr or to `file`, its control characters escaped."""
    if is_first():
        print(printable(text), file=file or sys.stderr)


def barrier(name: str) -> None:
    """Waits until every process has reached the barrier of this name."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def all_true(value: bool) -> bool:
    """Returns whether the value is true in every process; all of them must call it."""
    return bool(all_min(value))


def all_same(value: Any) -> bool:
    """Returns whether every process has the same value, compared as JSON; all must call it."""
    # 24 bits are exact in float32.
    checksum = float(zlib.crc32(json.dumps(value).encode()) >> 8)
    return all_min(checksum) == -all_min(-checksum)


def all_min(value: float) -> float:
    """Returns the smallest value of all processes, as float32; all of them must call it."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return value
    return float(np.min(multihost_utils.process_allgather(np.float32(value))))


def format_process_table(devices: list[Any], hosts: Mapping[int, str]) -> str:
    """Formats one line per process: its index, its host (if known) and its devices."""
    kinds = collections.defaultdict(collections.Counter)
    for device in devices:
        kinds[device.process_index][device.device_kind] += 1
    lines = [f'{"process":<9}{"host":<24}devices']
    for index in sorted(kinds):
        counts = ', '.join(f'{number} × {kind}' for kind, number in kinds[index].items())
        lines.append(f'{index:<9}{hosts.get(index, "-"):<24}{counts}')
    return '\n'.join([*lines, f'{len(devices)} devices in {len(kinds)} processes'])


def roll_call(group: ProcessGroup, seconds: float) -> dict[int, str]:
    """Meets every process at the coordinator's port, so that a missing one can be named.

    JAX, which uses the port afterwards, aborts every process without saying which one is missing.

    Returns the host name of every process in process 0, and an empty dictionary in the others.
    Raises UserError after `seconds`.
    """
    host, _, port = group.coordinator.rpartition(':')
    deadline = time.monotonic() + seconds
    if group.index == 0:
        return _call(group, int(port), deadline, seconds)
    problem = _answer(group, (host, int(port)), deadline)
    if problem is None:
        problem = f'process 0 did not answer within {seconds:g} s'
    if problem:
        raise _incomplete(group, problem)
    return {}


def _incomplete(group: ProcessGroup, problem: str) -> UserError:
    return UserError(
        problem, where=group.coordinator, fix='see the logs of the processes that are missing'
    )


def _call(group: ProcessGroup, port: int, deadline: float, seconds: float) -> dict[int, str]:
    """Waits in process 0 for the others, then tells each of them who is missing, if anybody.

    Returns the host name of every process.
    """
    try:
        listener = socket.create_server(('', port), backlog=group.count)
    except OSError as error:
        raise UserError(f'cannot listen ({error.strerror})', where=group.coordinator) from error
    with listener:
        hosts, connections = _accept_processes(group, listener, deadline)
        missing = sorted(set(range(group.count)) - hosts.keys())
        problem = ''
        if missing:
            names = ', '.join(map(str, missing[:_MAX_NAMED_PROCESSES]))
            names += ', …' if len(missing) > _MAX_NAMED_PROCESSES else ''
            problem = f'process {names} of {group.count} did not join within {seconds:g} s'
        for connection in connections.values():
            try:
                connection.sendall(f'{problem}\n'.encode())
                # The other side closes first, so that the port is free at once.
                connection.recv(1)
            except OSError:
                continue
            finally:
                connection.close()
    if problem:
        raise _incomplete(group, problem)
    return hosts


def _accept_processes(
    group: ProcessGroup, listener: socket.socket, deadline: float
) -> tuple[dict[int, str], dict[int, socket.socket]]:
    """Accepts connections until every process has sent `INDEX HOST`, or until the deadline.

    Returns the host names, process 0 included, and the open connections, both by process.
    """
    hosts, connections = {0: socket.gethostname()}, {}
    while len(hosts) < group.count and (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
            connection.settimeout(max(0.1, min(left, _SILENCE_SECONDS)))
            index, host = connection.recv(300).decode().split(' ', 1)
            index = range(1, group.count).index(int(index)) + 1
        except (OSError, ValueError):
            # Nobody came in time, or a stranger connected to this port.
            continue
        hosts[index] = host.strip()
        connections[index] = connection
    return hosts, connections


def _answer(group: ProcessGroup, address: tuple[str, int], deadline: float) -> str | None:
    """Reports to process 0 and returns its reply.

    The reply is empty when everybody is present, and None if there was none before the deadline.
    """
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=left) as connection:
                connection.sendall(f'{group.index} {socket.gethostname()}\n'.encode())
                # Process 0 replies at its own deadline.
                connection.settimeout(left + 10.0)
                with connection.makefile(encoding='utf-8') as replies:
                    reply = replies.readline()
                if reply:
                    return reply.strip()
        except OSError:
            pass
        time.sleep(_RETRY_SECONDS)
    return None
