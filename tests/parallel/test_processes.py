"""Several processes are one run: they find each other, agree, stop and continue together."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from bsft_jax.commands import prepare
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.parallel.processes import ProcessGroup
from tests.conftest import ROOT
from tests.tiny import random_model

STEPS = 16
BAD_PORTS = ('0', '65536', '99999', '-1', 'x', '', '²')
SLURM = {
    'SLURM_STEP_NUM_TASKS': '4',
    'SLURM_PROCID': '3',
    'SLURM_LOCALID': '1',
    'SLURM_JOB_ID': '4100',
    'SLURM_JOB_NODELIST': 'gpu[007-008]',
    'SLURM_STEP_NODELIST': 'gpu[007-008]',
    'SLURM_STEP_TASKS_PER_NODE': '2(x2)',
}


@pytest.mark.parametrize(
    'env, expected',
    [
        ({}, None),
        ({'BSFT_COORDINATOR': 'a:1', 'BSFT_PROCESSES': '1', 'BSFT_PROCESS': '0'}, None),
        (
            {'BSFT_COORDINATOR': 'a:1', 'BSFT_PROCESSES': '2', 'BSFT_PROCESS': '1'} | SLURM,
            ProcessGroup('a:1', 2, 1),
        ),
        (SLURM, ProcessGroup('gpu007:61444', 4, 3, (1,))),
        (SLURM | {'SLURM_STEP_TASKS_PER_NODE': '1(x4)'}, ProcessGroup('gpu007:61444', 4, 3)),
        (SLURM | {'JAX_COORDINATOR_ADDRESS': 'b:9'}, ProcessGroup('b:9', 4, 3, (1,))),
        (SLURM | {'SLURM_STEP_NUM_TASKS': '1'}, None),
        (
            {'JAX_COORDINATOR_ADDRESS': 'c:2', 'JAX_NUM_PROCESSES': '8', 'JAX_PROCESS_ID': '7'},
            ProcessGroup('c:2', 8, 7),
        ),
    ],
)
def test_the_environment_describes_the_group(env, expected):
    assert processes.process_group(env) == expected


@pytest.mark.parametrize(
    'env, message',
    [
        ({'BSFT_COORDINATOR': 'a', 'BSFT_PROCESSES': '2', 'BSFT_PROCESS': '0'}, 'not HOST:PORT'),
        ({'BSFT_COORDINATOR': 'a:1', 'BSFT_PROCESS': '0'}, 'BSFT_PROCESSES: is not set'),
        (
            {'BSFT_COORDINATOR': 'a:1', 'BSFT_PROCESSES': '2', 'BSFT_PROCESS': 'x'},
            "'x' is not a number of at most 9 digits",
        ),
        ({'BSFT_COORDINATOR': 'a:1', 'BSFT_PROCESSES': '2', 'BSFT_PROCESS': '2'}, '2 is not below'),
        (SLURM | {'SLURM_STEP_NODELIST': ''}, 'names no node'),
        *(({'BSFT_COORDINATOR': f'a:{port}'}, 'is not HOST:PORT') for port in BAD_PORTS),
        (SLURM | {'JAX_COORDINATOR_ADDRESS': 'a:99999'}, "JAX_COORDINATOR_ADDRESS: 'a:99999' is n"),
        ({'BSFT_COORDINATOR': 'a:1', 'BSFT_PROCESSES': '²'}, "'²' is not a number"),
        ({'BSFT_COORDINATOR': 'a:1', 'BSFT_PROCESSES': '9' * 10}, 'of at most 9 digits'),
    ],
)
def test_wrong_variables_are_named(env, message):
    with pytest.raises(UserError, match=message):
        processes.process_group(env)


@pytest.mark.parametrize(
    'nodes, host',
    [
        ('tpu[003-007,9],gpu1', 'tpu003'),
        ('127.0.0.[1-2]', '127.0.0.1'),
        ('a,b', 'a'),
        ('x[2,5]', 'x2'),
    ],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert processes.first_host(nodes) == host


def call(present, count, seconds, strangers=()):
    """Returns what the roll call returns, or its error, in each of the processes present.

    Each of `strangers` is text from a connection that was made before theirs.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    results = {}

    def join(index):
        try:
            results[index] = processes.roll_call(ProcessGroup(address, count, index), seconds)
        except UserError as error:
            results[index] = str(error)

    threads = [threading.Thread(target=join, args=(index,)) for index in present]
    with contextlib.ExitStack() as stack:
        if strangers:
            threads[0].start()
            for text in strangers:
                stack.enter_context(connected(address)).sendall(text)
        for thread in threads[bool(strangers) :]:
            thread.start()
        for thread in threads:
            thread.join(30)
    return results


JOINED = """
import os, pathlib, signal
from bsft_jax.parallel import processes
processes.start()
import jax
from jax._src import xla_bridge

@jax.jit
def marked(x):
    return x + 1

marked(1.0)
cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
cached = any('marked' in path.name for path in cache.rglob('*'))
print(xla_bridge.CUDA_VISIBLE_DEVICES.value, cached, flush=True)
processes.barrier('printed')
os.kill(os.getpid(), signal.SIGTERM)
processes.barrier('never')
"""


@pytest.mark.parametrize('shared', [True, False])
def test_the_only_tasks_of_their_nodes(tmp_path, shared):
    """Checks that each has all GPUs of its node and that SIGTERM ends it.

    Programs are cached in a folder that all see, and otherwise not at all.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    alone = {
        'SLURM_NTASKS': '2',
        'SLURM_STEP_NUM_TASKS': '2',
        'SLURM_STEP_TASKS_PER_NODE': '1(x2)',
        'SLURM_LOCALID': '0',
    }
    started = [
        subprocess.Popen(
            [sys.executable, '-c', JOINED],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ
            | SLURM
            | alone
            | {
                'SLURM_PROCID': str(i),
                'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
                'JAX_COMPILATION_CACHE_DIR': str(tmp_path / ('both' if shared else str(i))),
                'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            },
        )
        for i in range(2)
    ]
    for i, process in enumerate(started):
        output, errors = process.communicate(timeout=120)
        last_line = output.splitlines()[-1]
        cached = last_line.removeprefix('all ')
        assert (last_line, process.returncode) == (f'all {cached}', -signal.SIGTERM), errors
        # Only process 0 writes.
        assert i or cached == str(shared)
    assert not [*tmp_path.rglob('.shared-*')]


def connected(address):
    host, _, port = address.partition(':')
    for _ in range(100):
        try:
            return socket.create_connection((host, int(port)))
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(address)


def test_a_roll_call_ends_when_all_are_present():
    results = call([2, 1, 0], 3, 20.0)
    assert set(results[0]) == {0, 1, 2} and results[1] == results[2] == {}


def test_strangers_at_the_port_are_not_counted_and_delay_nobody():
    results = call(
        [0, 1, 2], 3, 6.0, strangers=[b'', b'7 another job\n', b'0 \n', b'GET / HTTP/1.1\n']
    )
    assert set(results[0]) == {0, 1, 2} and results[1] == results[2] == {}


def test_every_process_names_those_that_never_join():
    results = call([0, 2], 4, 1.0)
    assert results.keys() == {0, 2}
    for line in results.values():
        assert re.search(r'process 1, 3 of 4 did not join within 1 s', line)
    assert 'process 0 did not answer within 1 s' in call([1], 2, 1.0)[1]


def command(count, devices, *arguments):
    return [
        sys.executable,
        ROOT / 'launch' / 'local.py',
        f'--processes={count}',
        f'--devices_per_process={devices}',
        '--',
        *map(str, arguments),
    ]


def launch(*arguments):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'))


def training(base, workdir, mesh, *extra):
    sizes = [f'--config.mesh.{axis}={size}' for axis, size in mesh.items()]
    return (
        '-m',
        'bsft_jax.train',
        f'--config={ROOT}/configs/quickstart.py',
        f'--workdir={workdir}',
        *sizes,
        f'--config.model.base={base}',
        '--config.model.row_init=fitted',
        '--config.data.source=synthetic:40',
        '--config.data.global_batch_rows=8',
        '--config.data.sequence_length=256',
        '--config.data.max_dropped_fraction=1',
        '--config.log_interval=1',
        f'--config.train.steps={STEPS}',
        '--config.checkpoint.interval=5',
        *extra,
    )


def evaluation(workdir):
    return '-m', 'bsft_jax.evaluate', f'--workdir={workdir}', '--limit=30', '--name=test'


def curve(workdir):
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_curve(workdir, other, exact=False):
    actual, expected = curve(workdir), curve(other)
    assert [line['step'] for line in actual] == list(range(1, STEPS + 1))
    for line, reference in zip(actual, expected, strict=True):
        assert line['tokens'] == reference['tokens']
        assert abs(line['loss'] - reference['loss']) <= (0 if exact else 1e-4), (line, reference)


def assert_same_scores(workdir, other):
    """Checks that counts are equal, and means of probabilities but for the last digits."""
    path = pathlib.Path('eval', 'test', 'metrics.json')
    assert_nearly_equal(*(json.loads((folder / path).read_text()) for folder in (workdir, other)))


def assert_nearly_equal(actual, expected):
    """Checks two JSON values: numbers with a point to 1e-5, all others exactly."""
    if isinstance(actual, dict):
        assert actual.keys() == expected.keys()
        for name, value in actual.items():
            assert_nearly_equal(value, expected[name])
    elif isinstance(actual, list):
        for value, other in zip(actual, expected, strict=True):
            assert_nearly_equal(value, other)
    elif isinstance(actual, float):
        assert actual == pytest.approx(expected, abs=1e-5)
    else:
        assert actual == expected


@pytest.fixture(scope='module')
def alone(base, tmp_path_factory):
    """Returns the workdir of a run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp('runs') / 'alone'
    for arguments in (training(base, workdir, {'fsdp': 2}), evaluation(workdir)):
        done = launch(1, 8, *arguments)
        assert done.returncode == 0, done.stderr
    return workdir


def test_a_run_moves_between_processes_and_meshes(base, alone, tmp_path):
    """Stops two processes; four with another mesh continue and evaluate."""
    workdir = tmp_path / 'run'
    mesh = {'data': 1, 'fsdp': 4, 'tensor': 2}
    running = subprocess.Popen(
        command(2, 4, *training(base, workdir, mesh)), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        path = workdir / 'metrics.jsonl'
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (
            path.exists() and len(path.read_text().splitlines()) >= 2
        ):
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        log = running.communicate(timeout=120)[1]
    finally:
        running.kill()
    assert running.returncode == 75, log
    assert log.count('stopped: by a signal') == 2
    assert '8 devices in 2 processes' in log
    stopped_at = curve(workdir)[-1]['step']
    assert 2 <= stopped_at < STEPS
    mesh = {'data': 1, 'fsdp': 2, 'context': 2, 'tensor': 2}
    for arguments in (training(base, workdir, mesh), evaluation(workdir)):
        done = launch(4, 2, *arguments)
        assert done.returncode == 0, done.stderr
    assert_same_curve(workdir, alone)
    assert_same_scores(workdir, alone)


def test_several_processes_generate_what_one_does(base):
    arguments = (
        '-m',
        'bsft_jax.generate',
        f'--model={base}',
        '--text=Fine?',
        '--max_new_tokens=6',
        '--temperature=1',
    )
    runs = [launch(count, devices, *arguments) for count, devices in ((1, 1), (2, 2))]
    alone, together = (done.stdout.splitlines()[-1].removeprefix('[0] ') for done in runs)
    assert json.loads(together) == json.loads(alone), runs


@pytest.mark.slow
@pytest.mark.parametrize(
    'count, devices, mesh, source',
    [
        (2, 4, {}, 'synthetic:40'),
        (4, 2, {'fsdp': 4}, 'synthetic:40'),
        (2, 4, {'tensor': 2}, 'tfds:behavior_bench/synthetic'),
    ],
)
def test_processes_agree(count, devices, mesh, source, base, alone, tmp_path, monkeypatch):
    workdir = tmp_path / 'run'
    if source.startswith('tfds'):
        prepare.prepare(['synthetic:40'], tmp_path / 'set', format='tfds')
        monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'set'))
    train = training(base, workdir, mesh, f'--config.data.source={source}')
    for arguments in (train, evaluation(workdir)):
        done = launch(count, devices, *arguments)
        assert done.returncode == 0, done.stderr
    assert_same_curve(workdir, alone)
    assert_same_scores(workdir, alone)


@pytest.mark.slow
def test_processes_killed_at_thirty_random_moments(base, tmp_path):
    """Checks that the next start always continues, with the losses of an undisturbed run."""
    reference, moments = tmp_path / 'reference', random.Random(0)
    start = time.monotonic()
    assert launch(2, 2, *training(base, reference, {'fsdp': 2})).returncode == 0
    longest, finished, killed, workdir = 1.2 * (time.monotonic() - start), 0, 0, tmp_path / 'run-0'
    while killed < 30:
        arguments = command(2, 2, *training(base, workdir, {'fsdp': 2}))
        running = subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(moments.uniform(0.2, longest))
        children = pathlib.Path(f'/proc/{running.pid}/task/{running.pid}/children')
        pids = [int(pid) for pid in children.read_text().split()] if running.poll() is None else []
        if pids:
            os.kill(moments.choice(pids), signal.SIGKILL)
            assert running.wait(60) == 137
            killed += 1
        elif running.returncode == 0:
            assert_same_curve(workdir, reference, exact=True)
            finished, workdir = finished + 1, tmp_path / f'run-{finished + 1}'
        else:
            raise AssertionError(f'exit code {running.returncode}')
    assert launch(2, 2, *training(base, workdir, {'fsdp': 2})).returncode == 0
    assert_same_curve(workdir, reference, exact=True)
    print(f'{killed} killed, {finished + 1} runs finished')


def test_fewer_devices_than_expected(base, tmp_path):
    done = launch(2, 2, *training(base, tmp_path / 'run', {'devices': 8}))
    assert done.returncode == 2
    assert 'process  host' in done.stderr
    assert '--config.mesh.devices: expected 8 devices, found 4' in done.stderr
    assert 'Traceback' not in done.stderr and not (tmp_path / 'run').exists()


def test_one_failure_ends_all():
    program = (
        'import os, time; time.sleep(0 if os.environ["BSFT_PROCESS"] == "1" else 60); '
        'raise SystemExit(3)'
    )
    start = time.monotonic()
    done = launch(3, 0, '-c', program)
    assert done.returncode == 3 and time.monotonic() - start < 30
