"""Tests the Slurm launcher on scripts that answer as Slurm does; tests/slurm has a real one."""

import os
import sys
import threading
import time

import pytest

from bsft_jax.errors import Preempted, UserError
from bsft_jax.studies import slurm
from tests.conftest import ROOT

# A job is a folder: its command, and the states that scontrol gives, one for each look at it.
SBATCH = """#!{python}
import os, pathlib, sys
jobs = pathlib.Path({folder!r})
if (jobs / 'full').exists():
    sys.exit('sbatch: error: QOSMaxSubmitJobPerUserLimit')
number = len(list(jobs.glob('[0-9]*'))) + 1
(jobs / str(number)).mkdir()
(jobs / str(number) / 'command').write_text('\\n'.join(sys.argv[1:]))
print(f'{{number}};cluster')
"""
SCONTROL = """#!{python}
import pathlib, sys
jobs = pathlib.Path({folder!r})
job = jobs / sys.argv[-1]
if not job.exists():
    sys.exit('slurm_load_jobs error: Invalid job id specified')
plan = (jobs / 'plan').read_text().split('\\n')[int(job.name) - 1].split()
looks = int((job / 'looks').read_text()) if (job / 'looks').exists() else 0
(job / 'looks').write_text(str(looks + 1))
state, _, code = plan[min(looks, len(plan) - 1)].partition(':')
if state == 'down':
    sys.exit('slurm_load_jobs error: Unable to contact slurm controller')
print(f'JobId={{job.name}} JobName=bsft JobState={{state}} Reason=None ExitCode={{code or 0}}:0')
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Returns a folder of jobs; its file `plan` has a line of states for each job."""
    folder, programs = tmp_path / 'jobs', tmp_path / 'bin'
    folder.mkdir()
    programs.mkdir()
    for name, text in (('sbatch', SBATCH), ('scontrol', SCONTROL)):
        path = programs / name
        path.write_text(text.format(python=sys.executable, folder=str(folder)))
        path.chmod(0o755)
    monkeypatch.setenv('PATH', f'{programs}:{os.environ["PATH"]}')
    monkeypatch.chdir(ROOT)
    return folder


def launcher(tmp_path, jobs=1):
    return slurm.SlurmLauncher(tmp_path / 'study', jobs, ('--partition=gpu',), poll_seconds=0.01)


def submitted(cluster):
    return [path.read_text().split('\n') for path in sorted(cluster.glob('*/command'))]


COMMAND = [sys.executable, '-m', 'bsft_jax.train', '--config=a b.py']


def test_a_command_is_a_job_of_the_script(cluster, tmp_path):
    (cluster / 'plan').write_text('PENDING RUNNING PENDING down RUNNING COMPLETED')
    assert launcher(tmp_path)('a-s0', COMMAND) is True
    log = tmp_path / 'study/logs/a-s0.log'
    assert submitted(cluster) == [
        [
            *('--parsable', '--open-mode=append', f'--output={log}', '--partition=gpu'),
            *('launch/slurm.sbatch', '--', '-m', 'bsft_jax.train', '--config=a b.py'),
        ]
    ]
    assert not log.with_suffix('.job').exists()


def test_a_failed_job_is_submitted_once_more_unless_the_config_is_wrong(cluster, tmp_path):
    (cluster / 'plan').write_text('FAILED:1\nCOMPLETED\nTIMEOUT\nNODE_FAIL\nFAILED:2')
    own = launcher(tmp_path)
    assert own('a', COMMAND) is True and len(submitted(cluster)) == 2
    assert own('b', COMMAND) is False and len(submitted(cluster)) == 4
    assert own('c', COMMAND) is False and len(submitted(cluster)) == 5
    assert own.failed['c'].startswith('exit code 2') and list(own.failed) == ['b', 'c']


def test_a_study_that_is_started_again_waits_for_its_job(cluster, tmp_path):
    (cluster / 'plan').write_text(' '.join(['RUNNING'] * 10_000))
    own = launcher(tmp_path)
    threading.Timer(0.3, own._stopping.set).start()
    with pytest.raises(Preempted):
        own('a', COMMAND)
    kept = tmp_path / 'study/logs/a.job'
    assert kept.read_text() == '1'
    (cluster / 'plan').write_text('COMPLETED')
    assert launcher(tmp_path)('a', COMMAND) is True
    assert len(submitted(cluster)) == 1 and not kept.exists()


def test_a_job_that_slurm_has_forgotten_is_submitted_anew(cluster, tmp_path):
    (cluster / 'plan').write_text('COMPLETED')
    logs = tmp_path / 'study/logs'
    logs.mkdir(parents=True)
    (logs / 'a.job').write_text('977')
    assert launcher(tmp_path)('a', COMMAND) is True and len(submitted(cluster)) == 1


def test_jobs_wait_side_by_side(cluster, tmp_path):
    (cluster / 'plan').write_text('\n'.join(['RUNNING ' * 3 + 'COMPLETED'] * 4))
    own, running, most = launcher(tmp_path, jobs=4), [], []

    def one(name):
        running.append(name)
        most.append(len(running))
        time.sleep(0.2)
        assert own(name, COMMAND)
        running.remove(name)

    own.map(one, 'abcd')
    assert max(most) == 4 and not own.failed


def test_what_cannot_be_submitted_is_refused(cluster, tmp_path, monkeypatch):
    (cluster / 'full').touch()
    with pytest.raises(UserError, match='sbatch: .*QOSMaxSubmitJobPerUserLimit'):
        launcher(tmp_path)('a', COMMAND)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='call it in the repository'):
        launcher(tmp_path)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match='--launcher=slurm: there is no sbatch'):
        launcher(tmp_path)
