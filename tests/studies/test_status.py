"""Tests the table of `study --status`: states, rates, time left and runs that are not known yet."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from bsft_jax import files
from bsft_jax.studies import scaling_plan, status
from tests.conftest import ROOT
from tests.studies.test_launching import run as run_study
from tests.studies.test_launching import study
from tests.studies.test_scaling_study import run as run_scaling
from tests.studies.test_scaling_study import study as scaling
from tests.studies.test_scaling_study import write_run

__all__ = ['scaling', 'study']


def test_states_follow_the_folders(study, tmp_path):
    directory = tmp_path / 'study'
    found = status.study_status(study, directory)
    assert [(s.name, s.state, s.step, s.steps) for s in found] == [
        ('a-s0', 'waiting', 0, 3),
        ('b-s0', 'waiting', 0, 3),
        ('a-s1', 'waiting', 0, 3),
        ('b-s1', 'waiting', 0, 3),
    ]
    run_study(study, directory)
    (directory / 'points/b-s1/eval/test-auto/metrics.json').unlink()
    (directory / 'points/a-s1/checkpoints/3').rmdir()
    (directory / 'points/b-s0/config.json').unlink()
    found = status.study_status(study, directory)
    assert [s.state for s in found] == ['done', 'waiting', 'started', 'trained']
    assert status.format_status(found).endswith('1 done, 1 waiting, 1 started, 1 trained')


def test_trials_come_first_and_runs_when_their_rate_is_known(study, tmp_path):
    directory = tmp_path / 'study'
    tried = dataclasses.replace(study, learning_rates=(1e-3, 2e-3), seeds=(0,))
    names = [s.name for s in status.study_status(tried, directory)]
    assert names == ['a-s0-lr0.001', 'a-s0-lr0.002', 'b-s0-lr0.001', 'b-s0-lr0.002']
    run_study(tried, directory)
    found = status.study_status(tried, directory)
    assert len(found) == 6 and {s.state for s in found} == {'done'}


def test_time_left_is_that_since_the_last_start(scaling, tmp_path):
    directory = tmp_path / 'study'
    planned = scaling_plan.plan_runs(scaling)[-1]
    workdir = directory / planned.run.workdir
    write_run(planned, workdir)
    (workdir / 'checkpoints/12').rmdir()
    lines = [
        {'step': 2, 'loss': 5.0, 'seconds': 400.0, 'tokens_per_second': 10.0},
        {'step': 4, 'loss': 4.0, 'seconds': 3.0, 'tokens_per_second': 90.0},
        {'step': 6, 'loss': 3.0, 'seconds': 13.0, 'tokens_per_second': 100.0},
        {'step': 6, 'validation/loss': 9.0},
    ]
    files.write_lines(workdir / 'metrics.jsonl', lines)
    os.utime(workdir / 'metrics.jsonl', (time.time() - 75, time.time() - 75))
    found = status.study_status(scaling, directory)[-1]
    assert (found.state, found.step, found.steps, found.loss) == ('started', 6, 12, 3.0)
    assert found.seconds_left == pytest.approx((12 - 6) * 5.0)
    assert found.seconds_ago == pytest.approx(75, abs=30)
    text = status.format_status([found])
    assert '30 s' in text and '1 min' in text and '100' in text


def test_a_scaling_study_is_done_with_its_points(scaling, tmp_path):
    directory = tmp_path / 'study'
    run_scaling(scaling, directory)
    assert {s.state for s in status.study_status(scaling, directory)} == {'done'}


@pytest.mark.parametrize(
    'seconds, text', [(45.4, '45 s'), (725, '12 min 5 s'), (12_000, '3 h 20 min')]
)
def test_durations_have_two_units(seconds, text):
    assert status.format_seconds(seconds) == text


def test_the_flag_runs_nothing(tmp_path):
    command = [sys.executable, '-m', 'bsft_jax.study', '--status', f'--workdir={tmp_path / "x"}']
    command += ['--config=configs/studies/quickstart.py']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'general_sft-s0' in done.stdout and '2 waiting' in done.stdout
    assert not (tmp_path / 'x').exists()
