"""Tests of `calibrate` and of what honours it: evaluate, rescore, generate and export."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bsft_jax import files
from bsft_jax.commands.calibrate import CalibrateOptions, calibrate, describe
from bsft_jax.commands.rescore import RescoreOptions, rescore
from bsft_jax.config import DataConfig, EvaluationConfig
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record, write_jsonl
from tests import run as runs
from tests.conftest import ROOT
from tests.training.small_run import small_run

SIZES = {'train': 16, 'validation': 120, 'test': 40}


def records():
    """Returns records of two to a case, one of each behavior, without `option_behaviors`."""
    return [
        Record(
            (Message('user', f'{split} {i} has sign {i * 7919 % 10**6}. Next step?'),),
            id=f'{split}{i}',
            case_id=f'{split}-case{i // 2}',
            options=(f'rest {i}', f'drug {i}'),
            answer=i // 2 % 2,
            behavior=('reactive', 'proactive')[i % 2],
            split=split,
        )
        for split, size in SIZES.items()
        for i in range(size)
    ]


@pytest.fixture(scope='module')
def run(base, tmp_path_factory):
    """Returns the folder of a LoRA run that saved steps 1 and 2."""
    folder = tmp_path_factory.mktemp('calibrated')
    write_jsonl(folder / 'tasks.jsonl', records())
    config = small_run(base, 'lora')
    config.train.steps, config.checkpoint.interval = 2, 1
    config.evaluation = EvaluationConfig(interval=0)
    config.data = DataConfig(
        source=f'jsonl:{folder}/tasks.jsonl', sequence_length=128, global_batch_rows=8
    )
    runs.train(config, folder / 'run')
    return folder / 'run'


def app(name, *flags, code=0):
    command = [sys.executable, '-m', f'bsft_jax.{name}', *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == code, (done.returncode, done.stderr[-3000:])
    return done


def calibrated(run, **options):
    options = {'eval_dir': str(run / 'eval/validation-auto')} | options
    return calibrate(CalibrateOptions(str(run), **options))


def without(metrics, *names):
    return {key: value for key, value in metrics.items() if key not in names}


def test_calibrate_evaluate_rescore_generate_export(run, tmp_path):
    flags = ('--target_over_intervention=0.05', '--confidence=0.9')
    line = app('evaluate', f'--workdir={run}', '--policy=calibrated', code=2).stderr
    assert f'--policy=calibrated: the run {run} has no calibration; run python -m' in line
    printed = app('calibrate', f'--workdir={run}', *flags).stdout
    content = json.loads((run / 'calibration.json').read_text())
    assert printed == describe(content) + '\n'
    assert 'at most 0.05 with confidence 0.9' in printed and 'of 60 cases' in printed
    assert content['model']['step'] == 2 and content['validation']['over_intervention_rate'] < 0.05
    assert content['chosen_by'] == {'target_over_intervention': 0.05, 'confidence': 0.9}
    # The stored scores give the same, without a device.
    evaluation = run / 'eval/validation-auto'
    app('calibrate', f'--workdir={run}', f'--eval_dir={evaluation}', *flags)
    assert json.loads((run / 'calibration.json').read_text()) == content

    policy = f'dial:{content["dial"]!r}'
    found = runs.evaluate(workdir=str(run), policy='calibrated')
    plain = runs.evaluate(workdir=str(run), policy=policy)
    assert found['policy'] == 'calibrated' and found['dial'] == content['dial']
    assert without(found, 'policy', 'calibration') == without(plain, 'policy')
    assert found['calibration']['n'] == SIZES['test']
    assert found['calibration']['brier_before'] == pytest.approx(found['stepping_in']['brier'])
    rows = files.read_lines(run / 'eval/test-calibrated/predictions.jsonl')

    runs.evaluate(workdir=str(run))
    folder, again = rescore(RescoreOptions(str(run / 'eval/test-auto'), 'calibrated', 'again'))
    assert without(again, 'rescored') == found
    assert files.read_lines(folder / 'predictions.jsonl') == rows
    _, other = rescore(RescoreOptions(str(folder), 'auto', 'other'))
    assert 'calibration' not in other

    for format in ('merged', 'peft'):
        out = runs.export(str(run), str(tmp_path / format), format=format)
        path = out / ('config.json' if format == 'merged' else 'bsft.json')
        entry = json.loads(path.read_text())
        entry = entry['bsft'] if format == 'merged' else entry
        assert (entry['calibration'], entry['dial']) == (content, content['dial'])
        ids = {behavior['name']: str(behavior['id']) for behavior in entry['behaviors']}
        assert entry['logit_bias'] == {ids['reactive']: 0.0, ids['proactive']: content['dial']}
        for row in rows:
            biased = {
                n: x + entry['logit_bias'][ids[n]] for n, x in row['behavior_logprobs'].items()
            }
            assert max(biased, key=biased.get) == row['behavior_prediction']
        options = {'workdir': str(tmp_path / f'{format}-eval'), 'model': str(out)}
        data = f'jsonl:{run.parent}/tasks.jsonl'
        exported = runs.evaluate(**options, policy='calibrated', data=data, name='x')
        assert exported['dial'] == content['dial']
        assert exported['intervention'] == found['intervention']
        runs.evaluate(**options, data=data, name='auto')
        stored = tmp_path / f'{format}-eval/eval/auto'
        _, rescored = rescore(RescoreOptions(str(stored), 'calibrated', 'y'))
        assert rescored['intervention'] == found['intervention']
        with pytest.raises(UserError, match='calibration is of another chat template; leave'):
            template = tmp_path / 'other.jinja'
            text = (out / 'chat_template.jinja').read_text()
            template.write_text(text + '{# other #}')
            runs.evaluate(**options, policy='calibrated', data=data, chat_template=str(template))

    for dial, behavior in ((-50.0, 'reactive'), (50.0, 'proactive')):
        calibrated(run, dial=dial)
        [answer] = runs.generate(workdir=str(run), text='Next step?', policy='calibrated')
        assert answer['behavior'] == behavior


@pytest.fixture
def stored(run):
    """Returns the run with an evaluation of its validation split and a calibration of step 2."""
    if not (run / 'eval/validation-auto').exists():
        runs.evaluate(workdir=str(run), split='validation')
    calibrated(run, dial=1.5)
    return run


def test_a_calibration_of_another_model_is_refused(stored, tmp_path, capsys):
    run, path = stored, stored / 'calibration.json'
    content = files.read_json(path)

    def refused(message, **options):
        with pytest.raises(UserError, match=f'calibration.json: {message}'):
            runs.evaluate(workdir=str(run), policy='calibrated', **options)

    refused('is of step 2, the model is of step 1; calibrate with --step=1', step=1)
    refused("is of another prompt style than 'instructed'; use --prompt=plain", prompt='instructed')
    for name, words in (('weights', 'weights'), ('chat_template', 'chat template')):
        changed = {**content, 'model': {**content['model'], name: 'x'}}
        files.write_json(path, changed)
        refused(f'is of another model: its {words} differs; calibrate again')
        with pytest.raises(UserError, match=f'its {words} differs'):
            runs.generate(workdir=str(run), text='x', policy='calibrated')
    capsys.readouterr()
    folder = runs.export(str(run), str(tmp_path / 'export'))
    assert 'exported without a calibration: ' in capsys.readouterr().err
    entry = files.read_json(folder / 'config.json')['bsft']
    assert (entry['calibration'], entry['dial'], entry['logit_bias']) == (None, 0.0, None)
    with pytest.raises(UserError, match=r'the model .* has no calibration; run .*and export RUN'):
        runs.evaluate(
            workdir=str(tmp_path), model=str(folder), data='synthetic:10', policy='calibrated'
        )
    files.write_json(path, {**content, 'behaviors': {'reactive': 0.0, 'proactive': 0.5}})
    refused('is of other behaviors')
    for broken in ([], {**content, 'dial': 'x'}, {**content, 'schema': 2}, {'schema': 1}):
        files.write_json(path, broken)
        refused('is no calibration of this version; calibrate again')
    path.write_text('{')
    refused('not valid JSON')


def test_a_checkpoint_is_calibrated_by_its_number(stored):
    content = calibrate(CalibrateOptions(str(stored), step=1, dial=0.5))
    assert content['model']['step'] == 1
    assert content['evaluation']['name'] == 'validation-auto-step1'
    metrics = runs.evaluate(workdir=str(stored), step=1, policy='calibrated', limit=4)
    assert metrics['dial'] == 0.5
    source = stored / 'eval/validation-auto'
    with pytest.raises(UserError, match='is of step 1, the model is of step 2'):
        rescore(RescoreOptions(str(source), 'calibrated', 'x'))


def test_costs_weigh_misses_and_false_alarms(stored):
    restrained = calibrated(stored, cost_miss=1.0, cost_false_alarm=100.0)
    bold = calibrated(stored, cost_miss=100.0, cost_false_alarm=1.0)
    assert restrained['dial'] < bold['dial']
    assert restrained['validation']['over_intervention_rate'] == 0.0
    assert bold['validation']['missed_intervention_rate'] == 0.0
    assert bold['chosen_by'] == {'cost_miss': 100.0, 'cost_false_alarm': 1.0}
    assert 'confidence' not in describe(bold)


def test_a_category_with_enough_cases_has_a_dial_of_its_own(stored):
    source, folder = stored / 'eval/validation-auto', stored / 'eval/categories'
    rows = files.read_lines(source / 'predictions.jsonl')
    # 48 cases of one category and 12 of the other.
    names = ['medication_safety'] * 96 + ['temporal_ordering'] * 24
    rows = [{**row, 'category': name} for row, name in zip(rows, names, strict=True)]
    # The other one's rows all step in, so that only the dial of both must hold them back.
    for row in rows[96:]:
        row['behavior_logprobs'] = {'reactive': -5.0, 'proactive': -0.1}
    folder.mkdir()
    files.write_lines(folder / 'predictions.jsonl', rows)
    files.write_json(folder / 'metrics.json', files.read_json(source / 'metrics.json'))
    options = {'eval_dir': str(folder), 'by_category': True}
    content = calibrated(stored, target=0.05, **options)
    assert list(content['categories']) == ['medication_safety']
    own = content['categories']['medication_safety']
    assert own['cases'] == 48 and own['over_intervention_rate'] == 0.0
    assert content['dial'] < -4.9 < own['dial']
    assert 'medication_safety: dial ' in describe(content)
    _, metrics = rescore(RescoreOptions(str(folder), 'calibrated', 'by-category'))
    assert (metrics['policy'], metrics['dial']) == ('calibrated', content['dial'])
    for row in files.read_lines(stored / 'eval/by-category/predictions.jsonl'):
        dial = own['dial'] if row['category'] == 'medication_safety' else content['dial']
        reactive, proactive = row['behavior_logprobs'].values()
        taken = 'proactive' if proactive + dial >= reactive else 'reactive'
        assert row['behavior_prediction'] == taken
    # Fewer than 50 are too few for costs.
    assert calibrated(stored, cost_miss=1.0, cost_false_alarm=1.0, **options)['categories'] == {}


def test_a_target_that_cannot_be_met_says_what_can(stored):
    before = (stored / 'calibration.json').read_bytes()
    message = (
        r'^--target_over_intervention=0\.01: cannot be met with confidence 0\.9 by 60 cases; the '
        r'lowest that can is 0\.038; raise it'
    )
    # 1 - 0.1 ** (1 / 60) is 0.0376.
    with pytest.raises(UserError, match=message):
        calibrated(stored, target=0.01)
    assert (stored / 'calibration.json').read_bytes() == before
    assert calibrated(stored, target=0.038)['validation']['over_intervention_rate'] == 0.0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'choose the dial in one way; give --target_over_intervention, or --dial, or'),
        ({'dial': 1.0, 'target': 0.1}, 'choose the dial in one way'),
        ({'dial': 1.0, 'cost_miss': 1.0}, 'choose the dial in one way'),
        ({'dial': 1.0, 'confidence': 0.9}, '--confidence: belongs to --target'),
        ({'target': 5.0}, r'--target_over_intervention: 5\.0 is not between 0 and 1'),
        ({'target': 0.1, 'confidence': 90.0}, r'--confidence: 90\.0 is not between 0 and 1'),
        ({'dial': 1.0, 'by_category': True}, '--by_category: belongs to a target or to costs'),
        ({'dial': np.inf}, '--dial: inf is not a finite number'),
        ({'cost_miss': 1.0}, 'flag --cost_false_alarm is missing; give both costs'),
        ({'cost_miss': 1.0, 'cost_false_alarm': 0.0}, r'--cost_false_alarm: 0\.0 is not a pos'),
        ({'dial': 1.0, 'eval_dir': 'x', 'step': 3}, '--step=3: belongs to an evaluation that'),
        ({'dial': 1.0}, '--workdir=x: not a workdir'),
    ],
)
def test_flags_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        calibrate(CalibrateOptions('x', **options))


@pytest.mark.parametrize(
    ('flags', 'line'),
    [
        ('--target_over_intervention=2', '--target_over_intervention: 2.0 is not between 0 and 1'),
        ('--target_over_intervention=0.1 --confidence=1', '--confidence: 1.0 is not between'),
        ('--cost_miss=1', 'flag --cost_false_alarm is missing'),
        ('--cost_false_alarm=1', 'flag --cost_miss is missing'),
        ('--dial=1 --by_category', '--by_category: belongs to a target or to costs'),
        ('--dial=1 --eval_dir=x --step=3', '--step=3: belongs to an evaluation that is made'),
        ('--dial=much', 'flag --dial=much'),
    ],
)
def test_the_command_reads_its_flags(flags, line):
    error = app('calibrate', '--workdir=x', *flags.split(), code=2).stderr
    assert error.startswith(f'error: {line}') and error.count('\n') == 1


def test_only_an_evaluation_of_the_runs_validation_is_read(stored, tmp_path):
    source = stored / 'eval/validation-auto'
    rows, metrics = (
        files.read_lines(source / 'predictions.jsonl'),
        files.read_json(source / 'metrics.json'),
    )

    def refused(message, rows=rows, folder=stored / 'eval/mine', **changes):
        folder.mkdir(parents=True, exist_ok=True)
        files.write_lines(folder / 'predictions.jsonl', rows)
        files.write_json(folder / 'metrics.json', {**metrics, **changes})
        with pytest.raises(UserError, match=f'^--eval_dir={folder}: {message}'):
            calibrated(stored, eval_dir=str(folder), dial=1.0)

    makes_one = r'python -m bsft_jax\.evaluate --workdir=.* --split=validation makes one'
    refused(f'is of the test split, not of validation; {makes_one}', split='test')
    refused(f'is not an evaluation of the run .*; {makes_one}', folder=tmp_path / 'eval/x')
    refused('is not an evaluation of the run', model='tiny-clinical')
    refused('3 of its records were trained on', trained_on={'records': 3})
    refused('is of step 7, whose checkpoint is gone; leave it out', step=7)
    alike = [row for row in rows if row['behavior'] == 'reactive']
    refused('has no records both with a label that steps in and with one that does not', alike)
    refused('has no records both', [{**row, 'behavior': None} for row in rows])
    with pytest.raises(UserError, match='is not the folder of an evaluation'):
        calibrated(stored, eval_dir=str(tmp_path), dial=1.0)


def test_a_run_without_behaviors_has_no_dial(tmp_path):
    for arm in ('general_sft', 'neutral_token'):
        config = small_run('base').to_dict() | {'arm': arm}
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(UserError, match=f'--workdir=.*a dial needs behaviors .* arm {arm} has'):
            calibrate(CalibrateOptions(str(tmp_path), target=0.1))
