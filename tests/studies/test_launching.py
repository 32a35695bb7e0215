"""Tests the points of a study, the order of work, resuming, failures, and the real commands."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from bsft_jax import files
from bsft_jax.behaviors import Behavior
from bsft_jax.errors import UserError
from bsft_jax.studies import commands, launchers, launching, results
from bsft_jax.studies import study as study_lib
from bsft_jax.studies.study import Arm, Study
from tests.conftest import ROOT

CONFIG = """
from bsft_jax.config import *

def get_config(arg='behavior_sft'):
    return RunConfig(
        arm=arg,
        log_interval=1,
        model=ModelConfig(base={base!r}),
        data=DataConfig(
            source='synthetic:60', sequence_length=448, global_batch_rows=8, answer_format='text'
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1, schedule_steps=3),
    )
"""
STUDY = """
from bsft_jax.studies.study import *

def get_config(seeds='2'):
    return Study(
        name='tiny',
        config={config!r},
        arms=(Arm('general_sft', {{'arm': 'general_sft'}}), Arm('behavior_sft')),
        seeds=tuple(range(int(seeds))),
        test_limit=90,
    )
"""
ENDPOINT = ('overall', ('b', 'auto'), ('a', 'auto'))


@pytest.fixture
def study(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(base='tiny-clinical'))
    arms = (Arm('a', {'arm': 'general_sft'}), Arm('b'))
    return Study('tiny', str(path), arms, seeds=(0, 1), base_prompts=('plain',), endpoint=ENDPOINT)


def options(command):
    return dict(part[2:].split('=', 1) for part in command if part.startswith('--'))


class FakeLauncher(launchers.LocalLauncher):
    """Writes what a command would write; `score(workdir, options)` may raise to fail."""

    def __init__(self, directory, study, score=lambda workdir, given: 0.5, jobs=1):
        super().__init__(directory, jobs)
        self.directory, self.study, self.score, self.commands = directory, study, score, []

    def _run(self, command, log):
        given = options(command)
        workdir = pathlib.Path(given['workdir'])
        self.commands.append((command[2].split('.')[-1], workdir.name, given.get('name', '')))
        try:
            value = self.score(workdir.name, given)
        except RuntimeError as error:
            log.write(f'{error}\n'.encode())
            return 1
        if command[2] == 'bsft_jax.train':
            (workdir / 'checkpoints' / '3').mkdir(parents=True, exist_ok=True)
            changed = {k[7:]: v for k, v in given.items() if k.startswith('config.')}
            types = {'seed': int, 'optimizer.learning_rate': float, 'train.steps': int}
            changed = {path: types.get(path, str)(value) for path, value in changed.items()}
            base = study_lib.load_config(given['config'], study_lib.RunConfig)
            config = study_lib.with_overrides(base, changed)
            (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
        else:
            folder = workdir / 'eval' / given['name']
            folder.mkdir(parents=True, exist_ok=True)
            metrics = {'policy': 'auto', 'prompt': 'plain', 'overall': {'macro_f1': value}}
            files.write_json(folder / 'metrics.json', metrics)
        return 0


def run(study, directory, **kwargs):
    launcher = FakeLauncher(directory, study, **kwargs)
    points = launching.run_study(study, directory, launcher)
    path = directory / 'results.jsonl'
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return launcher, points, rows


def test_every_point_runs_once_and_only_once(study, tmp_path):
    directory = tmp_path / 'study'
    launcher, _, rows = run(study, directory)
    trained = [workdir for app, workdir, _ in launcher.commands if app == 'train']
    assert trained == ['a-s0', 'b-s0', 'a-s1', 'b-s1']
    assert [app for app, *_ in launcher.commands].count('evaluate') == 5  # with the base
    assert [(r['arm'], r['seed']) for r in rows] == [
        ('a', 0),
        ('b', 0),
        ('a', 1),
        ('b', 1),
        ('base', None),
    ]
    keys = 'study point arm seed evaluation config workdir metrics'
    assert set(rows[0]) == set(keys.split())
    assert rows[1]['config']['arm'] == 'behavior_sft' and rows[2]['config']['seed'] == 1
    assert run(study, directory)[0].commands == []

    (directory / 'points/b-s1/eval/test-auto/metrics.json').unlink()
    assert run(study, directory)[0].commands == [('evaluate', 'b-s1', 'test-auto')]
    extended = dataclasses.replace(study, seeds=(0, 1, 2))
    assert {workdir for _, workdir, _ in run(extended, directory)[0].commands} == {'a-s2', 'b-s2'}


def test_the_base_is_told_of_behaviors_of_ones_own(study, tmp_path):
    config = study_lib.make_point(study, study.arms[0], 0, None).config
    assert not any(
        '--config' in word for word in commands.base_command(study, config, tmp_path, '')
    )
    own = dataclasses.replace(config, behaviors=(Behavior('calm', 0.0, 'x'),))
    assert f'--config={study.config}' in commands.base_command(study, own, tmp_path, '')
    assert commands.base_workdir(own) != commands.base_workdir(config)


def test_results_of_another_config_limit_or_source_do_not_count(study, tmp_path):
    directory = tmp_path / 'study'
    run(study, directory)
    limited = dataclasses.replace(study, test_limit=9)
    assert [app for app, *_ in run(limited, directory)[0].commands] == ['evaluate'] * 5
    assert run(study, directory)[0].commands == []

    shorter = dataclasses.replace(study, overrides={'train.steps': 2})
    point = study_lib.make_point(shorter, study.arms[0], 0, None)
    assert [c[2] for c in launching.missing_commands(shorter, point, directory, 'test')] == [
        'bsft_jax.train',
        'bsft_jax.evaluate',
    ]
    other = dataclasses.replace(study, overrides={'data.source': 'synthetic:90'})
    config = study_lib.make_point(other, study.arms[0], 0, None).config
    assert commands.base_workdir(config) != commands.base_workdir(point.config)
    logged = dataclasses.replace(study, overrides={'log_interval': 7, 'checkpoint.interval': 5})
    assert (
        launching.missing_commands(
            logged, study_lib.make_point(logged, study.arms[0], 0, None), directory, 'test'
        )
        == []
    )


def test_metrics_that_training_makes_wrong_are_removed_first(study, tmp_path):
    directory = tmp_path / 'study'
    study = dataclasses.replace(study, seeds=(0,))
    run(study, directory)

    def fails(workdir, given):
        if 'name' in given:
            raise RuntimeError('no evaluation')

    longer = dataclasses.replace(study, overrides={'train.steps': 2})
    _, points, _ = run(longer, directory, score=fails)
    assert [results.point_metrics(longer, point, directory, 'test') for point in points] == [
        None,
        None,
    ]


def test_equal_configs_are_one_run(study, tmp_path):
    twins = (*study.arms, Arm('same as b', {'arm': 'behavior_sft'}))
    study = dataclasses.replace(study, arms=twins, seeds=(0,), learning_rates=(1e-3, 2e-3))
    launcher, points, rows = run(study, tmp_path / 'study')
    assert [w for app, w, _ in launcher.commands if app == 'train'] == [
        'a-s0-lr0.001',
        'a-s0-lr0.002',
        'b-s0-lr0.001',
        'b-s0-lr0.002',
    ]
    assert [(r['arm'], r['workdir']) for r in rows[1:3]] == [
        ('b', 'points/b-s0-lr0.001'),
        ('same as b', 'points/b-s0-lr0.001'),
    ]
    assert len(points) == 3


def test_a_failing_point_is_tried_twice_and_the_others_go_on(study, tmp_path):
    def score(workdir, given):
        if workdir == 'b-s0':
            raise RuntimeError('out of memory')
        return 0.5

    directory = tmp_path / 'study'
    launcher, _, rows = run(study, directory, score=score)
    assert [c for c in launcher.commands if c[1] == 'b-s0'] == [('train', 'b-s0', '')] * 2
    assert list(launcher.failed) == ['b-s0'] and 'out of memory' in launcher.failed['b-s0']
    assert [(r['arm'], r['seed']) for r in rows] == [('a', 0), ('a', 1), ('b', 1), ('base', None)]

    failures = iter([True, False, False])

    def once(workdir, given):
        if next(failures):
            raise RuntimeError('a moment of weakness')
        return 0.5

    launcher, _, rows = run(study, directory, score=once)
    assert (launcher.failed, len(rows)) == ({}, 5)


def test_each_arm_takes_its_best_rate_on_validation_and_the_smaller_of_equals(study, tmp_path):
    scores = {
        'a-s0-lr0.0005': 0.4,
        'a-s0-lr0.001': 0.6,
        'a-s0-lr0.002': 0.5,
        'b-s0-lr0.0005': 0.3,
        'b-s0-lr0.001': 0.7,
        'b-s0-lr0.002': 0.7,
    }
    splits = []

    def score(workdir, given):
        if workdir in scores and 'split' in given:
            splits.append(given['split'])
            return scores[workdir] if given['split'] == 'validation' else 1 - scores[workdir]

    study = dataclasses.replace(study, learning_rates=(2e-3, 5e-4, 1e-3), base_prompts=())
    _, points, rows = run(study, tmp_path / 'study', score=score)
    assert [(p.arm, p.seed, p.config.optimizer.learning_rate) for p in points] == [
        ('a', 0, 1e-3),
        ('b', 0, 1e-3),
        ('a', 1, 1e-3),
        ('b', 1, 1e-3),
    ]
    assert splits.count('validation') == 6
    assert {r['evaluation']['name'] for r in rows} == {'test-auto'}


def test_failed_trials_choose_nothing(study, tmp_path):
    def score(workdir, given):
        if workdir.startswith('b-s') or workdir == 'a-s0-lr0.002':
            raise RuntimeError('diverged')
        return 0.5

    study = dataclasses.replace(study, learning_rates=(1e-3, 2e-3), seeds=(0,))
    launcher, points, _ = run(study, tmp_path / 'study', score=score)
    assert [(p.arm, p.config.optimizer.learning_rate) for p in points] == [('a', 1e-3)]
    assert set(launcher.failed) == {'a-s0-lr0.002', 'b-s0-lr0.001', 'b-s0-lr0.002', 'b'}


def test_a_dry_run_prints_the_commands_that_can_be_started_now(study, tmp_path, capsys):
    directory = tmp_path / 'study'
    study = dataclasses.replace(study, learning_rates=(1e-3, 2e-3), base_prompts=())
    launching.run_study(study, directory, launchers.DryRun())
    lines = capsys.readouterr().out.splitlines()
    assert not directory.exists()
    commands = [line for line in lines if not line.startswith('#')]
    assert [line.split()[2] for line in commands] == ['bsft_jax.train', 'bsft_jax.evaluate'] * 4
    assert all('split=validation' in line for line in commands[1::2])
    assert len(lines) == len(commands) + 2
    run(dataclasses.replace(study, seeds=(0,)), directory)
    capsys.readouterr()
    launching.run_study(study, directory, launchers.DryRun())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ['bsft_jax.train', 'bsft_jax.evaluate'] * 2
    assert all('-s1-lr0.001' in line for line in lines)


def test_every_command_is_logged_with_its_run_and_time(study, tmp_path, capsys):
    def score(workdir, given):
        if workdir == 'b-s1':
            raise RuntimeError('out of memory')
        return 0.5

    run(study, tmp_path / 'study', score=score)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f'tiny: 5 runs, logs in {tmp_path}/study/logs'
    assert lines[:4] == [
        '[1/5] train a-s0 …',
        '[1/5] train a-s0 done 0 s',
        '[1/5] evaluate a-s0 …',
        '[1/5] evaluate a-s0 done 0 s',
    ]
    assert lines[-4:] == [
        '[4/5] train b-s1 …',
        '[4/5] train b-s1 failed 0 s',
        '[5/5] evaluate base-test-plain …',
        '[5/5] evaluate base-test-plain done 0 s',
    ]
    launching.run_study(study, tmp_path / 'new', launchers.DryRun())
    assert capsys.readouterr().err == ''


def test_the_endpoint_stays_the_one_named_beforehand(study, tmp_path):
    run(study, tmp_path / 'study')
    other = dataclasses.replace(study, endpoint=('proactive', *ENDPOINT[1:]))
    with pytest.raises(UserError, match='named before there were results.*new --workdir'):
        run(other, tmp_path / 'study')
    other = dataclasses.replace(study, over_rate=0.1)
    with pytest.raises(
        UserError, match=r'over_rate of .*: was named before.*: 0\.05; now it is 0\.1'
    ):
        run(other, tmp_path / 'study')
    path = tmp_path / 'study/study.json'
    older = json.loads(path.read_text())
    assert older.pop('over_rate') == 0.05
    path.write_text(json.dumps(older))
    run(study, tmp_path / 'study')
    assert json.loads(path.read_text())['over_rate'] == 0.05


def test_a_failing_point_leaves_the_other_jobs_alone(study, tmp_path):
    def score(workdir, given):
        if workdir == 'b-s0':
            raise RuntimeError('out of memory')
        return 0.5

    launcher, _, rows = run(study, tmp_path / 'study', score=score, jobs=3)
    assert list(launcher.failed) == ['b-s0']
    assert [(r['arm'], r['seed']) for r in rows] == [('a', 0), ('a', 1), ('b', 1), ('base', None)]


def test_launching_imports_no_jax():
    code = 'import sys, bsft_jax.studies.launching; print("jax" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ('False', '')


@pytest.mark.slow
def test_a_study_end_to_end(tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG.format(base='tiny-clinical'))
    path = tmp_path / 'study.py'
    path.write_text(STUDY.format(config=str(tmp_path / 'config.py')))
    directory = tmp_path / 'a study'

    def study(*flags, code=0):
        command = [sys.executable, '-m', 'bsft_jax.study', f'--workdir={directory}', *flags]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
        assert done.returncode == code, done.stderr[-3000:]
        return done

    done = study(f'--config={path}')
    assert 'behavior_sft with auto is' in done.stdout and 'Smallest effect' in done.stdout
    rows = [json.loads(line) for line in (directory / 'results.jsonl').read_text().splitlines()]
    assert [(r['arm'], r['seed']) for r in rows] == [
        ('general_sft', 0),
        ('behavior_sft', 0),
        ('general_sft', 1),
        ('behavior_sft', 1),
        ('base', None),
    ]
    plans = {
        (r['arm'], r['seed']): json.loads(
            (directory / r['workdir'] / 'checkpoints/3/data/metadata').read_text()
        )['plan_hash']
        for r in rows[:4]
    }
    assert plans['general_sft', 0] == plans['behavior_sft', 0] != plans['general_sft', 1]
    summary = json.loads((directory / 'summary.json').read_text())
    found = {(row['arm'], row['policy']): row['seeds'] for row in summary['rows']}
    assert (
        found['general_sft', 'auto']
        == found['behavior_sft', 'auto']
        == found['behavior_sft', 'oracle']
        == 2
    )
    assert ('general_sft', 'oracle') not in found
    page = (directory / 'report.html').read_text()
    assert '<svg' in page and 'behavior_sft' in page

    start = time.monotonic()
    assert study(f'--config={path}').stdout == done.stdout
    assert time.monotonic() - start < 30
    failed = study(f'--config={path}:1', '--override=optimizer.learning_rate=2e-3', code=1)
    assert (
        'failed: general_sft-s0: exit code 2' in failed.stderr and 'another config' in failed.stderr
    )


@pytest.mark.parametrize(
    'spec',
    (
        *('quickstart.py', 'paper_table.py', 'label_noise.py', 'open.py'),
        *('smollm2.py', 'smollm2.py:one_category'),
    ),
)
def test_shipped_studies_are_sound(spec, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = study_lib.load_config(f'configs/studies/{spec}', study_lib.Study)
    study_lib.check_study(study)
    arms = {arm.name for arm in study.arms}
    assert {arm for arm, _ in study.endpoint[1:]} <= arms


def test_a_study_by_the_real_commands(tmp_path):
    overrides = (
        'data.source=synthetic:30',
        'optimizer.schedule_steps=3',
        'optimizer.warmup_steps=1',
        'evaluation.interval=0',
    )
    command = [
        *(sys.executable, '-m', 'bsft_jax.study', '--config=configs/studies/quickstart.py'),
        f'--workdir={tmp_path}',
        *(f'--override={item}' for item in overrides),
    ]
    env = {**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ('general_sft', 'behavior_sft', 'base', 'oracle', 'shortcuts'):
        assert words in done.stdout
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert {(row['arm'], row['policy']) for row in summary['rows']} == {
        ('general_sft', 'auto'),
        ('behavior_sft', 'auto'),
        ('behavior_sft', 'oracle'),
        ('base', 'auto'),
    }
    assert (tmp_path / 'report.html').is_file()
