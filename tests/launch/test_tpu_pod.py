"""Tests launch/tpu_pod.sh: its commands, and runs with a gcloud whose slice is a local folder."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

GOLDEN = ROOT / 'tests' / 'golden' / 'launch'
NEEDED = ('--name=pod', '--zone=us-east5-b', '--accelerator=v6e-16', '--version=v2-alpha-tpuv6e')
TRAIN = (
    '-m',
    'bsft_jax.train',
    '--config=configs/qwen2_5_7b.py',
    '--config.mesh.devices=16',
    '--workdir=/mnt/nfs/run',
    "--note=it's 2 words",
)
GCLOUD = """#!{python}
import json, os, pathlib, shutil, signal, subprocess, sys, time

home, call = pathlib.Path(os.environ['HOST']), sys.argv[1:]
with open(home / 'calls', 'a') as log:
    print(json.dumps(call), file=log)
state, verb = home / 'state', call[3]
if verb == 'describe':
    sys.exit(print(state.read_text()) if state.exists() else 1)
if verb == 'create':
    state.write_text('READY' if call[2] == 'tpu-vm' else 'ACTIVE')
if verb == 'delete':
    state.unlink()
if verb == 'scp' and call[4].startswith('pod:') and (home / 'unreachable').exists():
    sys.exit(1)
if verb == 'scp':
    paths = [home / p.partition(':')[2] if p.startswith('pod:') else p for p in call[4:6]]
    shutil.copy(*paths)
if verb == 'ssh':
    command = call[-1].removeprefix('--command=')
    if command.startswith('pkill'):
        pid = home / 'pid'
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)
            while pid.exists():
                time.sleep(0.05)
        sys.exit()
    if 'bsft_environment' in command:
        unpack = command.partition('cd bsft_jax;')[0]
        command = unpack + 'mkdir -p bsft_jax/.venv/bin; '
        command += 'ln -sf "{python}" bsft_jax/.venv/bin/python'
    if 'mountpoint' not in command:
        sys.exit(subprocess.run(['bash', '-c', command], cwd=home).returncode)
"""
APP = """
import os, pathlib, signal, sys, time

def end(*_):
    pid.unlink()
    sys.exit(int(sys.argv[1]))

signal.signal(signal.SIGTERM, end)
assert os.environ['BSFT_DISTRIBUTED'] == '1'
pid = pathlib.Path('../pid')
pid.write_text(str(os.getpid()))
workdir = pathlib.Path(sys.argv[2].partition('=')[2] or sys.argv[3])
workdir.mkdir(parents=True, exist_ok=True)
if 'nothing' not in sys.argv:
    (workdir / 'metrics.jsonl').write_text(sys.argv[-1])
print('the app runs', pathlib.Path('changed.txt').read_text(), flush=True)
time.sleep(60 if 'wait' in sys.argv else 0)
end()
"""


@pytest.mark.parametrize(
    'golden, options',
    [
        ('tpu_vm.txt', ('--project=clinic', '--keep')),
        ('queued.txt', ('--queued', '--spot', '--nfs=10.0.0.2:/share')),
    ],
)
def test_a_dry_run_prints_every_command(golden, options):
    arguments = (*NEEDED, *options, '--dry_run', '--', *TRAIN)
    done = subprocess.run(
        ['bash', 'launch/tpu_pod.sh', *arguments],
        cwd=ROOT,
        env=os.environ | {'TMPDIR': '/tmp'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == ''
    assert done.stdout == (GOLDEN / golden).read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (NEEDED[1:], '--name=… is missing'),
        (NEEDED, 'nothing to run'),
        ((*NEEDED, '--zones=x', '--', 'a'), 'unknown option --zones=x'),
        ((*NEEDED, '--name=../x', '--', 'a'), '--name=../x is not a name'),
        ((*NEEDED, '--name=a b', '--', 'a'), '--name=a b is not a name'),
        ((*NEEDED, '--name=-x', '--', 'a'), '--name=-x is not a name'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    done = subprocess.run(
        ['bash', 'launch/tpu_pod.sh', *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and message in done.stderr


@pytest.fixture
def slice_(tmp_path):
    """Returns a repository with only the script, the folder of the slice's host, and a gcloud."""
    repository, host = tmp_path / 'a repository', tmp_path / 'host'
    (repository / 'launch').mkdir(parents=True)
    host.mkdir()
    shutil.copy(ROOT / 'launch' / 'tpu_pod.sh', repository / 'launch')
    (repository / 'changed.txt').write_text('as committed')
    git = ('git', '-c', 'user.name=a', '-c', 'user.email=a@b')
    for command in (('init', '-q'), ('add', '.'), ('commit', '-qm', 'a')):
        subprocess.run([*git, *command], cwd=repository, check=True)
    (repository / 'changed.txt').write_text('as it is now')
    gcloud = tmp_path / 'bin' / 'gcloud'
    gcloud.parent.mkdir()
    gcloud.write_text(GCLOUD.format(python=sys.executable))
    gcloud.chmod(0o755)
    return repository, host, gcloud.parent


def launch(slice_, *options, app):
    repository, host, path = slice_
    who = {
        f'GIT_{role}_{what}': 'a' for role in ('AUTHOR', 'COMMITTER') for what in ('NAME', 'EMAIL')
    }
    env = (
        os.environ
        | who
        | {'PATH': f'{path}:{os.environ["PATH"]}', 'HOST': str(host), 'TMPDIR': str(host.parent)}
    )
    return subprocess.Popen(
        ['bash', 'launch/tpu_pod.sh', *NEEDED, *options, '--', '-c', APP, *app],
        cwd=repository,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def verbs(host):
    return [json.loads(line)[3] for line in (host / 'calls').read_text().splitlines()]


@pytest.mark.parametrize(
    'code, before, options, created, kept',
    [
        (0, None, (), True, False),
        (0, 'READY', ('--keep',), False, True),
        (2, 'PREEMPTED', (), True, False),
        (2, 'READY', (), False, True),
        (1, None, (), True, True),
        (137, None, (), True, True),
        (137, None, ('--nfs=10.0.0.2:/share',), True, False),
        (75, None, (), True, True),
        (75, None, ('--queued', '--spot', '--nfs=10.0.0.2:/share'), True, False),
        (255, None, ('--nfs=10.0.0.2:/share',), True, True),
    ],
)
def test_a_run_on_a_slice(code, before, options, created, kept, slice_):
    repository, host, _ = slice_
    temporary, valuable = host.parent, host.parent / 'valuable'
    valuable.write_text('mine')
    (temporary / 'bsft-pod.tar.gz').symlink_to(valuable)
    if before:
        (host / 'state').write_text(before)
    running = launch(slice_, *options, app=(str(code), '--workdir=runs/one', 'two words'))
    output = running.communicate(timeout=60)[0]
    assert running.returncode == code, output
    assert 'the app runs as it is now' in output
    assert valuable.read_text() == 'mine' and not list(temporary.glob('bsft.*'))
    assert (repository / 'runs' / 'pod' / 'metrics.jsonl').read_text() == 'two words'
    assert ('create' in verbs(host)) == created
    assert (verbs(host)[-1] == 'delete') == (not kept)
    assert ('pod is kept and costs money' in output) == kept == (host / 'state').exists()


@pytest.mark.parametrize('workdir', [('--workdir=runs/one',), ('--workdir', 'runs/one')])
@pytest.mark.parametrize('options', [(), ('--nfs=10.0.0.2:/share',)])
def test_a_run_that_cannot_be_fetched_is_not_deleted(workdir, options, slice_):
    _, host, _ = slice_
    (host / 'unreachable').touch()
    running = launch(slice_, *options, app=('0', *workdir, 'metrics'))
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 1, output
    assert 'delete' not in verbs(host)
    assert 'error: bsft_jax/runs/one/metrics.jsonl cannot be fetched' in output
    (fetch,) = [line for line in output.splitlines() if 'to fetch the run' in line]
    assert 'scp pod:bsft_jax/runs/one runs/pod --zone=us-east5-b' in fetch
    assert 'to delete the slice: gcloud compute tpus tpu-vm delete pod' in output


def test_an_app_without_metrics_is_no_reason_to_keep_the_slice(slice_):
    repository, host, _ = slice_
    running = launch(slice_, app=('0', '--workdir', 'runs/one', 'nothing'))
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 0, output
    assert verbs(host)[-1] == 'delete' and not (repository / 'runs').exists()


@pytest.mark.parametrize(
    'mounted, code, calls',
    [('', 0, 'mount chmod'), ('10.0.0.2:/share', 0, 'chmod'), ('10.0.0.3:/share', 2, '')],
)
def test_a_kept_slice_must_have_the_share_of_the_call(mounted, code, calls, tmp_path):
    arguments = (*NEEDED, '--nfs=10.0.0.2:/share', '--dry_run', '--', *TRAIN)
    printed = subprocess.run(
        ['bash', 'launch/tpu_pod.sh', *arguments], cwd=ROOT, capture_output=True, text=True
    ).stdout
    (line,) = [line for line in printed.splitlines() if 'mountpoint' in line]
    command = shlex.split(line)[-1].removeprefix('--command=')
    source, log = tmp_path / 'mounted', tmp_path / 'calls'
    source.write_text(mounted)
    log.touch()
    for name, script in {
        'mountpoint': f'test -s "{source}"',
        'findmnt': f'cat "{source}"',
        'sudo': (
            f'case "$1" in mkdir) exit;; mount) printf %s "$4" >"{source}";; esac; '
            f'echo "$1" >>"{log}"'
        ),
    }.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / name).chmod(0o755)
    env = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    done = subprocess.run(['bash', '-c', command], env=env, capture_output=True, text=True)
    assert (done.returncode, log.read_text().split()) == (code, calls.split()), done.stderr
    assert (f'error: /mnt/nfs is {mounted} on this slice' in done.stderr) == (code == 2)


def test_an_interrupt_lets_the_app_save(slice_):
    repository, host, _ = slice_
    running = launch(slice_, app=('75', '--workdir=runs/one', 'wait', 'saved'))
    deadline = time.monotonic() + 30
    while not (host / 'bsft_jax' / 'runs' / 'one' / 'metrics.jsonl').exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 75, output
    assert not (host / 'pid').exists()
    assert (repository / 'runs' / 'pod' / 'metrics.jsonl').read_text() == 'saved'
    assert verbs(host)[-1] == 'scp' and 'pod is kept' in output
