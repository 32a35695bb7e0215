"""Starts several processes of one run on this machine.

    python launch/local.py --processes=2 --devices_per_process=4 -- \\
        -m bsft_jax.train --config=configs/quickstart.py --workdir=runs/two

What stands behind `--` is what `python` is given in every process. Each line of theirs begins with the
process's number. SIGTERM and Ctrl-C tell all of them to save and stop; when one fails the others are stopped.
When one has saved (75), the others have 300 s to end.
`--devices_per_process` simulates so many CPU devices in each; without it a process has what it sees.
The exit code is that of the first process that failed, or 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 5  # between SIGTERM and SIGKILL, once one process has failed
SAVE_SECONDS = 300  # until SIGKILL, once one process has saved and stopped
NOISE = ('[Gloo]', 'peer ranks')  # what the collectives of CPUs say of every connection, at times in pieces
POLL_SECONDS = 0.1
STOPPED = 75  # asked to stop, and the others with it: they save together


def environment(index: int, processes: int, port: int, devices: int) -> dict[str, str]:
    """What one process is told."""
    env = os.environ | {
        'BSFT_COORDINATOR': f'127.0.0.1:{port}',
        'BSFT_PROCESSES': str(processes),
        'BSFT_PROCESS': str(index),
    }
    if devices:
        flags = [f for f in env.get('XLA_FLAGS', '').split() if 'host_platform_device_count' not in f]
        env['XLA_FLAGS'] = ' '.join([*flags, f'--xla_force_host_platform_device_count={devices}'])
        env['JAX_PLATFORMS'] = 'cpu'
        env.setdefault('NPROC', str(8 * devices))  # threads: each collective in progress takes one a device
    elif processes > 1:
        env.setdefault('JAX_LOCAL_DEVICE_IDS', str(index))  # a card each; jax reads it, and CPUs do not care
    return env


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def relay(index: int, process: subprocess.Popen) -> threading.Thread:
    """Copies a process's output to stderr and stdout, a line at a time, with its number in front."""

    def copy(source, target):
        for line in source:
            if not any(words in line for words in NOISE):
                target.write(f'[{index}] {line}')
                target.flush()

    def both():
        errors = threading.Thread(target=copy, args=(process.stderr, sys.stderr))
        errors.start()
        copy(process.stdout, sys.stdout)
        errors.join()

    thread = threading.Thread(target=both)
    thread.start()
    return thread


def send(running: list[subprocess.Popen], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


def watch(running: list[subprocess.Popen]) -> int:
    """Waits for all; stops the others when one fails, and returns its exit code."""
    failed, since = 0, 0.0
    while any(process.poll() is None for process in running):
        codes = [process.poll() for process in running]
        if not failed and any(codes):
            failed, since = next(code for code in codes if code), time.monotonic()
            if failed != STOPPED:
                send(running, signal.SIGTERM)
        grace = SAVE_SECONDS if failed == STOPPED else GRACE_SECONDS
        if failed and time.monotonic() - since > grace:
            send(running, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    failed = failed or next((process.returncode for process in running if process.returncode), 0)
    return failed if failed >= 0 else 128 - failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--processes', type=int, required=True)
    parser.add_argument('--devices_per_process', type=int, default=0)
    parser.add_argument('command', nargs='+', help='behind --: what python is given')
    options = parser.parse_args()
    if options.processes < 1 or options.devices_per_process < 0:
        parser.error('--processes must be at least 1, --devices_per_process at least 0')
    port = free_port()
    running, told = [], threading.Event()

    def stop(*_):
        told.set()
        send(running, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for index in range(options.processes):
        process = subprocess.Popen(
            [sys.executable, *options.command],
            env=environment(index, options.processes, port, options.devices_per_process),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace', start_new_session=True,
        )  # fmt: skip
        running.append(process)
    if told.is_set():  # while they were started
        send(running, signal.SIGTERM)
    relays = [relay(index, process) for index, process in enumerate(running)]
    code = watch(running)
    for thread in relays:
        thread.join()
    return code


if __name__ == '__main__':
    sys.exit(main())
