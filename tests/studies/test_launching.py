"""Studies: points from configs, the order of work, resuming, failures; and once the real commands."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from bsft_jax.errors import UserError
from bsft_jax.studies import launching
from bsft_jax.studies import study as study_lib
from bsft_jax.studies.study import Arm, Study

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARMS = (Arm('general_sft', {'arm': 'general_sft'}), Arm('behavior_sft', {'arm': 'behavior_sft'}))


def a_study(**changed):
    return Study(**{'name': 's', 'config': str(ROOT / 'configs/quickstart.py'), 'arms': ARMS, **changed})


class Pretender:
    """Writes what the commands would: the config of a run and macro-F1 as `score` says."""

    def __init__(self, directory, study, score=lambda point: 0.5, broken=()):
        self.directory, self.study, self.score, self.broken = directory, study, score, broken
        self.commands, self.failed = [], {}

    def __call__(self, name, command):
        self.commands.append((name, command[2].rpartition('.')[2]))
        if name.partition('-')[0] in self.broken:
            self.failed[name] = 'broken'
            return False
        flags = dict(part.lstrip('-').split('=', 1) for part in command[3:])
        workdir = pathlib.Path(flags['workdir'])
        workdir.mkdir(parents=True, exist_ok=True)
        if command[2].endswith('train'):
            overrides = {
                key.removeprefix('config.'): value
                for key, value in flags.items()
                if key.startswith('config.')
            }
            arm = next(arm for arm in self.study.arms if arm.overrides['arm'] == overrides['arm'])
            rate = overrides.get('optimizer.learning_rate')
            point = study_lib.point(self.study, arm, int(overrides['seed']), rate and float(rate))
            (workdir / 'config.json').write_text(json.dumps(point.config.to_dict()))
            return True
        evaluation = workdir / 'eval' / flags['name']
        evaluation.mkdir(parents=True)
        metrics = {'policy': 'auto', 'prompt': 'plain', 'overall': {'macro_f1': self.score(workdir.name)}}
        (evaluation / 'metrics.json').write_text(json.dumps(metrics))
        return True


@pytest.fixture
def launched(tmp_path):
    """Runs a study with a Pretender in place of `Local`."""

    def launch(study, **how):
        launcher = Pretender(tmp_path, study, **how)
        return launcher, launching.run(study, tmp_path, launcher)

    return launch


def test_every_arm_and_seed_is_trained_and_evaluated_once_and_a_second_call_does_nothing(launched, tmp_path):
    study = a_study(seeds=(0, 1))
    launcher, points = launched(study)
    assert [p.workdir for p in points] == [
        f'points/{arm}-s{seed}' for seed in (0, 1) for arm in ('general_sft', 'behavior_sft')
    ]
    assert [app for _, app in launcher.commands] == ['train', 'evaluate'] * 4 + ['evaluate']
    rows = [json.loads(line) for line in (tmp_path / 'results.jsonl').read_text().splitlines()]
    assert [(row['arm'], row['seed']) for row in rows] == [
        ('general_sft', 0), ('behavior_sft', 0), ('general_sft', 1), ('behavior_sft', 1), ('base', None),
    ]  # fmt: skip
    again, _ = launched(study)
    assert again.commands == []
    (tmp_path / 'points/general_sft-s1/eval/test-auto/metrics.json').unlink()
    (tmp_path / 'points/general_sft-s1/eval/test-auto').rmdir()
    third, _ = launched(study)
    assert third.commands == [('general_sft-s1', 'train'), ('general_sft-s1-1', 'evaluate')]


def test_the_learning_rate_is_the_best_on_validation_and_its_trial_is_the_first_seeds_run(launched):
    def score(name):
        return {'1e-05': 0.3, '0.0001': 0.6, '0.001': 0.6}[name.rpartition('-lr')[2]]

    launcher, points = launched(a_study(learning_rates=(1e-3, 1e-4, 1e-5), base_prompts=()), score=score)
    assert {point.config.optimizer.learning_rate for point in points} == {1e-4}
    assert len([app for _, app in launcher.commands if app == 'evaluate']) == 2 * 3 + 2
    assert {name for name, app in launcher.commands if app == 'train'} == {
        f'{arm}-s0-lr{rate}'
        for arm in ('general_sft', 'behavior_sft')
        for rate in ('1e-05', '0.0001', '0.001')
    }


def test_arms_with_the_same_config_are_one_run(launched):
    launcher, points = launched(a_study(arms=(*ARMS, Arm('again', {'arm': 'behavior_sft'})), base_prompts=()))
    assert len(points) == 3
    assert [app for _, app in launcher.commands] == ['train', 'evaluate'] * 2


def test_a_failing_point_is_left_out_and_the_others_go_on(launched, tmp_path):
    launcher, _ = launched(a_study(), broken=('general_sft',))
    rows = [json.loads(line) for line in (tmp_path / 'results.jsonl').read_text().splitlines()]
    assert [row['arm'] for row in rows] == ['behavior_sft', 'base']
    assert list(launcher.failed) == ['general_sft-s0']


def test_a_command_is_tried_twice_unless_the_user_must_act(tmp_path):
    launcher = launching.Local(tmp_path)
    mark = tmp_path / 'mark'
    second = f'import pathlib, sys; p = pathlib.Path({str(mark)!r}); old = p.exists(); p.touch(); sys.exit(not old)'
    assert launcher('flaky', [sys.executable, '-c', second]) and not launcher.failed
    count = "open('count', 'a').write('x')"
    for code, tries in ((1, 2), (2, 1)):
        (tmp_path / 'count').unlink(missing_ok=True)
        os.chdir(tmp_path)
        assert not launcher(f'bad{code}', [sys.executable, '-c', f'{count}; print("why"); exit({code})'])
        assert (tmp_path / 'count').read_text() == 'x' * tries
        assert f'exit code {code}: why' in launcher.failed[f'bad{code}']


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'overrides': {'optimizer.lr': 1}}, 'optimizer.lr'),
        ({'arms': (ARMS[0], ARMS[0])}, 'distinct'),
        ({'seeds': ()}, 'seeds'),
        ({'arms': (Arm('x', {'arm': 'nothing'}),)}, 'nothing'),
        ({'config': 'absent.py'}, 'absent.py'),
    ],
)
def test_a_study_that_cannot_be_run_says_so_before_anything_is(changed, message, launched):
    with pytest.raises(UserError, match=message):
        launched(a_study(**changed))


@pytest.mark.parametrize('name', ['quickstart', 'paper_table', 'label_noise'])
def test_shipped_studies_are_sound(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = study_lib.load(f'configs/studies/{name}.py', Study)
    study_lib.check(study)
    arms = {arm.name for arm in study.arms}
    assert {arm for arm, _ in study.endpoint[1:]} <= arms


def test_a_study_by_the_real_commands(tmp_path):
    overrides = ('data.source=synthetic:30', 'optimizer.schedule_steps=3', 'optimizer.warmup_steps=1')
    command = [
        sys.executable, '-m', 'bsft_jax.study', '--config=configs/studies/quickstart.py',
        f'--workdir={tmp_path}', *(f'--override={item}' for item in (*overrides, 'evaluation.interval=0')),
    ]  # fmt: skip
    env = {**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ('general_sft', 'behavior_sft', 'base', 'oracle', 'bag_of_words'):
        assert words in done.stdout
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert {(row['arm'], row['policy']) for row in summary['rows']} == {
        ('general_sft', 'auto'), ('behavior_sft', 'auto'), ('behavior_sft', 'oracle'), ('base', 'auto'),
    }  # fmt: skip
    assert (tmp_path / 'report.html').is_file()
