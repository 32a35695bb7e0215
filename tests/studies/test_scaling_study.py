"""Tests scaling studies: what is refused, the order of work, the forecast, resuming, commands."""

import csv
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from bsft_jax import files
from bsft_jax.errors import Preempted, UserError
from bsft_jax.studies import launchers, scaling_plan, scaling_report, scaling_run
from bsft_jax.studies import study as study_lib
from bsft_jax.studies.scaling_study import ScalingPoint, ScalingStudy
from bsft_jax.studies.study import Arm
from tests.conftest import ROOT
from tests.scaling import planted
from tests.studies.test_launching import options

CONFIG = """
from bsft_jax.config import *

def get_config():
    return RunConfig(
        arm='general_sft',
        model=ModelConfig(base='tiny-clinical', init='random'),
        data=DataConfig(
            source='synthetic_text:300', sequence_length=160, global_batch_rows=8,
            answer_format='text', train_on='turns', max_dropped_fraction=0.1,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1, schedule_steps=3),
    )
"""
WIDTHS, STEPS = (16, 32, 48, 64, 80, 96), (2, 4, 8)
ARMS = (Arm('plain', {'arm': 'general_sft'}), Arm('told', {'arm': 'behavior_sft'}))


def point(width, steps):
    shape = f'width={width},layers=1,heads={width // 16},kv_heads=1,mlp={2 * width}'
    changes = {'model.shape': shape, 'optimizer.schedule_steps': steps}
    return ScalingPoint(f'w{width}-s{steps}', changes)


@pytest.fixture
def study(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    points = tuple(point(width, steps) for steps in STEPS for width in WIDTHS)
    return ScalingStudy('sizes', str(path), (*points, point(128, 12)), held_out='w128-s12')


@pytest.fixture
def with_arms(study):
    points = tuple(
        ScalingPoint(f's{steps}', {'optimizer.schedule_steps': steps})
        for steps in (2, 4, 6, 8, 10, 12)
    )
    overrides = {
        'model.init': 'checkpoint',
        'data.source': 'synthetic:60',
        'data.train_on': 'answer',
    }
    overrides |= {'data.sequence_length': 448, 'data.max_dropped_fraction': 0.0}
    return dataclasses.replace(
        study, points=points, arms=ARMS, gain='told-plain', held_out='s12', overrides=overrides
    )


class FakeLauncher(launchers.LocalLauncher):
    """Writes what a command would write, and stops before the commands of the numbers `stops`."""

    def __init__(self, directory, study, stops=()):
        super().__init__(directory, 1)
        self.runs = {
            str(directory / planned.run.workdir): planned
            for planned in scaling_plan.plan_runs(study)
        }
        self.commands, self.stops, self.fail = [], set(stops), ''

    def _run(self, command, log):
        if len(self.commands) in self.stops:
            self._stopping.set()
            return -15
        given = options(command)
        planned, workdir = self.runs[given['workdir']], pathlib.Path(given['workdir'])
        app = command[2].rpartition('.')[2]
        self.commands.append((app, workdir.name))
        if self.fail and self.fail in workdir.name:
            return 1
        if app == 'train':
            write_run(planned, workdir)
        else:
            tokens = planned.tokens
            score = 0.6 + (0.2 - 20 * tokens**-0.7 if planned.run.arm == 'told' else 0.0)
            folder = workdir / 'eval' / given['name']
            folder.mkdir(parents=True)
            metrics = {'policy': 'auto', 'prompt': 'plain', 'overall': {'macro_f1': score}}
            files.write_json(folder / 'metrics.json', metrics)
        return 0


def write_run(planned, workdir):
    config = planned.run.config
    (workdir / 'checkpoints' / str(config.steps)).mkdir(parents=True)
    files.write_json(workdir / 'config.json', config.to_dict())
    # Nine tenths of each row are full.
    tokens = round(0.9 * planned.tokens)
    loss = float(planted.loss_of(planned.size.params, tokens))
    lines = [{'step': config.steps, 'tokens': tokens, 'loss': 9.0}]
    lines.append({'step': config.steps, 'validation/loss': loss})
    files.write_lines(workdir / 'metrics.jsonl', lines)


def run(study, directory, **changes):
    launcher = FakeLauncher(directory, study, changes.pop('stops', ()))
    launcher.__dict__.update(changes)
    runs = scaling_run.run_scaling_study(study, directory, launcher)
    return launcher, runs


@pytest.fixture(autouse=True)
def _no_rendering(monkeypatch):
    monkeypatch.setattr(scaling_run, 'check_data', lambda study, runs: None)


def test_points_run_once_and_the_held_out_one_last(study, tmp_path):
    directory = tmp_path / 'study'
    launcher, runs = run(study, directory)
    assert [name for _, name in launcher.commands] == [f'{p.name}-s0' for p in study.points]
    rows = list(csv.DictReader((directory / 'points.csv').open()))
    assert [row['point'] for row in rows] == [p.name for p in study.points]
    for row, planned in zip(rows, runs, strict=True):
        assert int(row['params']) == planned.size.params > int(row['non_embedding'])
        assert float(row['flops']) == planned.size.flops_per_token * int(row['tokens'])
        assert float(row['loss']) == planted.loss_of(int(row['params']), int(row['tokens']))
    assert run(study, directory)[0].commands == []


def test_the_forecast_is_written_before_the_point_and_holds(study, tmp_path):
    directory = tmp_path / 'study'
    with pytest.raises(Preempted):
        run(study, directory, stops=[len(study.points) - 1])
    content = files.read_json(directory / 'forecast.json')
    largest = scaling_plan.plan_runs(study)[-1]
    assert len(content['points']) == len(study.points) - 1
    assert content['tokens'] == round(0.9 * largest.tokens)
    assert not (directory / largest.run.workdir).exists()
    run(study, directory)
    assert files.read_json(directory / 'forecast.json') == content
    outcome = scaling_report.forecast_outcome(study, directory)
    measured = planted.loss_of(content['params'], content['tokens'])
    assert outcome['outcome'] == [measured]
    for method in ('approach3', 'vpnls'):
        assert outcome['forecast'][method]['loss'] == pytest.approx(measured, rel=1e-3)
        assert outcome['inside'][method] is True
    text = scaling_report.write_report(study, directory)
    assert 'loss of w128-s12, forecast on 20' in text and 'yes' in text
    fit = files.read_json(directory / 'fit.json')
    assert fit['points']['n'] == len(study.points) and fit['forecast'] == outcome
    page = (directory / 'fit.html').read_text()
    assert 'before it was trained' in page and content['written'] in page


def test_a_changed_forecast_is_refused(study, tmp_path):
    directory = tmp_path / 'study'
    run(study, directory)
    content = files.read_json(directory / 'forecast.json')
    content['forecast']['vpnls']['loss'] = 1.0
    files.write_json(directory / 'forecast.json', content)
    with pytest.raises(UserError, match='was changed after it was written'):
        scaling_report.write_report(study, directory)


def test_no_forecast_of_a_point_that_has_begun(study, tmp_path):
    directory = tmp_path / 'study'
    write_run(largest := scaling_plan.plan_runs(study)[-1], directory / largest.run.workdir)
    files.write_json(directory / 'study.json', {'study': 'sizes', 'endpoint': 'loss'})
    run(study, directory)
    content = files.read_json(directory / 'forecast.json')
    assert content['forecast'] == {} and 'started before' in content['refused']['any method']
    assert 'no forecast, the point had been started' in scaling_report.write_report(
        study, directory
    )


def test_a_failed_point_holds_back_the_forecast(study, tmp_path):
    directory = tmp_path / 'study'
    launcher, _ = run(study, directory, fail='w48-s4')
    assert list(launcher.failed) == ['w48-s4-s0']
    assert not (directory / 'forecast.json').exists()
    launcher, _ = run(study, directory)
    assert [name for _, name in launcher.commands] == ['w48-s4-s0', 'w128-s12-s0']
    assert len(files.read_json(directory / 'forecast.json')['points']) == len(study.points) - 1


def test_stopped_at_any_place_it_ends_with_the_same_files(study, tmp_path):
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    run(study, whole)
    scaling_report.write_report(study, whole)
    rng, stops = random.Random(1), 0
    while True:
        try:
            run(study, stopped, stops=[rng.randrange(5)])
        except Preempted:
            stops += 1
            continue
        break
    scaling_report.write_report(study, stopped)
    assert stops >= 4
    for name in ('points.csv', 'results.jsonl', 'fit_points.csv'):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    fits = [files.read_json(folder / 'fit.json') for folder in (whole, stopped)]
    for fit in fits:
        for changing in ('written', 'digest'):
            del fit['forecast'][changing]
        del fit['options']
    assert fits[0] == fits[1]


def test_arms_are_scored_and_their_gain_is_forecast(with_arms, tmp_path):
    directory = tmp_path / 'study'
    launcher, _ = run(with_arms, directory)
    assert launcher.commands[:2] == [('train', 's2-plain-s0'), ('evaluate', 's2-plain-s0')]
    rows = list(csv.DictReader((directory / 'points.csv').open()))
    assert [row['arm'] for row in rows[:2]] == ['plain', 'told']
    assert 'validation_loss' in rows[0] and 'loss' not in rows[0]
    outcome = scaling_report.forecast_outcome(with_arms, directory)
    assert outcome['measure'] == 'gain' and len(outcome['outcome']) == 1
    assert outcome['inside'] == {'saturating': True}
    text = scaling_report.write_report(with_arms, directory)
    assert 'gain of s12, forecast on' in text and 'told-plain' in text


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'points': (), 'held_out': ''}, 'too few: none'),
        ({'points': (point(16, 2),), 'held_out': ''}, 'too few: 1 sizes'),
        ({'points': (point(16, 2), point(16, 2))}, "'w16-s2' names two points"),
        ({'points': (ScalingPoint('../x', {}),)}, "name of a point: '../x'"),
        ({'points': (ScalingPoint('a', {}, '1e9'), ScalingPoint('b', {}))}, "'b' has no budget"),
        ({'points': (ScalingPoint('a', {'model.shap': ''}),), 'held_out': ''}, 'unknown config'),
        ({'seeds': (0, 0)}, 'seeds must be distinct'),
        ({'held_out': 'absent'}, "held_out of the study: no point 'absent'"),
        ({'held_out': 'w16-s2'}, 'takes as much compute'),
        ({'held_out': 'w96-s8'}, "'w128-s12' takes as much compute"),
        ({'gain': 'a-b'}, "gain of the study: 'a-b' is not ARM-ARM"),
        ({'arms': (Arm('a'), Arm('a'))}, "'a' names two arms"),
        ({'arms': ARMS}, 'with arms it is the gain that is forecast'),
        ({'arms': (Arm('a', {'model.shape': ''}),), 'held_out': ''}, 'both change model.shape'),
        ({'overrides': {'model.init': 'checkpoint'}}, 'model.shape: the weights of a checkpoint'),
    ],
)
def test_a_wrong_study_is_refused(study, changes, message):
    with pytest.raises(UserError, match=message):
        scaling_plan.plan_runs(dataclasses.replace(study, **changes))


def test_more_steps_than_an_epoch_are_refused(study):
    wrong = dataclasses.replace(study, points=(*study.points[:-1], point(128, 100_000)))
    wrong = dataclasses.replace(wrong, held_out='w128-s100000')
    with pytest.raises(UserError, match='trains for 100000 steps, and an epoch of .* has'):
        scaling_plan.check_data(wrong, scaling_plan.plan_runs(wrong)[-1:])


@pytest.mark.parametrize(
    'spec',
    [
        *('size_ladder.py', 'size_ladder.py:smoke', 'size_ladder.py:pod'),
        *('data_ladder.py', 'data_ladder.py:smoke', 'data_ladder.py:pod'),
    ],
)
def test_shipped_studies_are_sound(spec, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    study = study_lib.load_config(f'configs/studies/{spec}', ScalingStudy)
    runs = scaling_run.run_scaling_study(study, pathlib.Path('never'), launchers.DryRun())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(runs) * (2 if study.arms else 1)
    assert not pathlib.Path('never').exists()
    assert study.held_out == runs[-1].name


@pytest.mark.slow
def test_a_ladder_by_the_real_commands(tmp_path):
    command = [*(sys.executable, '-m', 'bsft_jax.study'), f'--workdir={tmp_path / "study"}']
    command += ['--config=configs/studies/size_ladder.py:smoke']
    env = {**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fit = json.loads((tmp_path / 'study/fit.json').read_text())
    assert fit['points']['n'] == 15 and 1.5 < fit['forecast']['outcome'][0] < 4.0
