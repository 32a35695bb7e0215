"""Starts several processes of one run on this machine.

    python launch/local.py --processes=2 --devices_per_process=4 -- \\
        -m bsft_jax.train --config=configs/quickstart.py --workdir=runs/two

Everything after `--` is passed to `python` in every process. Each line of output begins with the
number of its process. SIGTERM and Ctrl-C tell all processes to save and stop; a second Ctrl-C kills
them. When one fails, the others are stopped, and the last line says which one it was. When one has
saved (75), the others are told to and have 300 s to end. When this script is killed, so are they.
`--devices_per_process` simulates that many CPU devices in each process; without it a process has
the devices that it sees. The exit code is that of the first process that failed, or 0.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time

# Between SIGTERM and SIGKILL, once one process has failed.
GRACE_SECONDS = 5
# Until SIGKILL, once one process has saved and stopped.
SAVE_SECONDS = 300
# In lines, sometimes broken ones, that CPU collectives print about every connection.
NOISE = ('[Gloo]', 'peer ranks')
POLL_SECONDS = 0.05
# Exit code of a process that was asked to stop. All save together.
STOPPED = 75
# Of prctl: the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def environment(index: int, processes: int, port: int, devices: int) -> dict[str, str]:
    """Returns the environment of one process."""
    env = os.environ | {
        'BSFT_COORDINATOR': f'127.0.0.1:{port}',
        'BSFT_PROCESSES': str(processes),
        'BSFT_PROCESS': str(index),
    }
    if devices:
        flags = env.get('XLA_FLAGS', '').split()
        flags = [flag for flag in flags if 'host_platform_device_count' not in flag]
        env['XLA_FLAGS'] = ' '.join([*flags, f'--xla_force_host_platform_device_count={devices}'])
        env['JAX_PLATFORMS'] = 'cpu'
        # Threads of XLA: each collective in progress occupies one per device.
        env.setdefault('NPROC', str(8 * devices))
    elif processes > 1:
        # One GPU each. JAX reads the variable; CPUs ignore it.
        env.setdefault('JAX_LOCAL_DEVICE_IDS', str(index))
    return env


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def relay(index: int, process: subprocess.Popen) -> threading.Thread:
    """Copies a process's output to stdout and stderr, line by line, with its number in front.

    Returns the thread that does it.
    """

    def copy(source, target):
        for line in source:
            if not any(noise in line for noise in NOISE):
                target.write(f'[{index}] {line}')
                target.flush()

    def copy_both():
        errors = threading.Thread(target=copy, args=(process.stderr, sys.stderr))
        errors.start()
        copy(process.stdout, sys.stdout)
        errors.join()

    thread = threading.Thread(target=copy_both)
    thread.start()
    return thread


def end_with_parent(parent: int) -> None:
    """Lets Linux kill this process, a child that has yet to start its program, with its parent."""
    if sys.platform == 'linux':
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before.
    if os.getppid() != parent:
        os._exit(STOPPED)


def send(running: list[subprocess.Popen], signal_number: int) -> None:
    """Sends a signal to every process that still runs."""
    for process in running:
        if process.poll() is None:
            process.send_signal(signal_number)


def first_failure(running: list[subprocess.Popen]) -> int | None:
    """Returns the index of a process that has failed; None if none has.

    Of several that are found at once it is one that was killed: the others end because of it.
    """
    codes = {i: process.returncode for i, process in enumerate(running) if process.poll()}
    return min(codes, key=lambda i: (codes[i] != -signal.SIGKILL, i), default=None)


def watch(running: list[subprocess.Popen]) -> tuple[int, str]:
    """Waits for all processes and stops the others when one fails.

    Returns the exit code of that one, or 0, and a line that says what happened to it; an empty line
    if all ended well or have saved.
    """
    failed, since, others = None, 0.0, False
    while any(process.poll() is None for process in running):
        if failed is None and (failed := first_failure(running)) is not None:
            others, since = any(process.poll() is None for process in running), time.monotonic()
            send(running, signal.SIGTERM)
        saved = failed is not None and running[failed].returncode == STOPPED
        if failed is not None and time.monotonic() - since > (
            SAVE_SECONDS if saved else GRACE_SECONDS
        ):
            send(running, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    if failed is None:
        failed = first_failure(running)
    code = 0 if failed is None else running[failed].returncode
    line = f'process {failed} {describe(code)}' if code not in (0, STOPPED) else ''
    if line and others:
        line += '; the others are stopped'
    return code if code >= 0 else 128 - code, line


def describe(code: int) -> str:
    """Returns in words how a process ended."""
    if code >= 0:
        return f'ended with exit code {code}'
    verb = 'was killed' if code == -signal.SIGKILL else f'died of {signal.Signals(-code).name}'
    return f'{verb} (signal {-code})'


def main() -> int:
    """Starts the processes and returns their exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--processes', type=int, required=True)
    parser.add_argument('--devices_per_process', type=int, default=0)
    parser.add_argument('command', nargs='+', help='after --: arguments of python')
    options = parser.parse_args()
    if options.processes < 1 or options.devices_per_process < 0:
        parser.error('--processes must be at least 1, --devices_per_process at least 0')
    port = free_port()
    running, stop_requested = [], threading.Event()

    def stop(number, _):
        again = number == signal.SIGINT and stop_requested.is_set()
        stop_requested.set()
        send(running, signal.SIGKILL if again else signal.SIGTERM)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, stop)
    for index in range(options.processes):
        process = subprocess.Popen(
            [sys.executable, *options.command],
            env=environment(index, options.processes, port, options.devices_per_process),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors='replace',
            start_new_session=True,
            # Safe here, since this process has no threads yet.
            preexec_fn=functools.partial(end_with_parent, os.getpid()),
        )
        running.append(process)
    # A signal that came meanwhile has missed the processes started after it.
    if stop_requested.is_set():
        send(running, signal.SIGTERM)
    relays = [relay(index, process) for index, process in enumerate(running)]
    code, line = watch(running)
    for thread in relays:
        thread.join()
    if line:
        print(line, file=sys.stderr)
    return code


if __name__ == '__main__':
    sys.exit(main())
