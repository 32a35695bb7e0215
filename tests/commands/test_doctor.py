"""Tests of `doctor` on a healthy run and on each fault.

A fault is one line, and the checks that do not need its result go on.
"""

import dataclasses
import shutil
import subprocess
import sys

import pytest

from bsft_jax.commands import doctor
from bsft_jax.commands.doctor import FAIL, OK, SKIPPED, WARN, Doctor
from bsft_jax.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.hub import files
from bsft_jax.parallel import env
from bsft_jax.records.record import write_jsonl
from bsft_jax.training import workdir
from tests.conftest import ROOT

CHECKS = [
    'versions',
    'settings',
    'devices',
    'base',
    'template',
    'data',
    'splits',
    'mesh',
    'rows',
    'disk',
]


@pytest.fixture(autouse=True)
def launch_environment(monkeypatch):
    """Sets the variable that the launch scripts set."""
    monkeypatch.setenv('GLIBC_TUNABLES', env.MALLOC)


def changed_config(**changes) -> RunConfig:
    data = DataConfig(
        source='synthetic:40', sequence_length=160, global_batch_rows=16, answer_format='text'
    )
    config = RunConfig(
        model=ModelConfig(base='tiny-clinical'), data=data, evaluation=EvaluationConfig(interval=10)
    )
    for path, value in changes.items():
        section, _, field = path.partition('__')
        changed = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def examine(tmp_path, **changes) -> dict[str, doctor.Finding]:
    """Returns the findings by name; `changes` are written `section__field=value`."""
    checks = Doctor(changed_config(**changes), tmp_path / 'run')
    return {finding.name: finding for finding in checks()}


def assert_others_are_ok(findings, *but):
    assert list(findings) == CHECKS
    others = {name: f.verdict for name, f in findings.items() if name not in but}
    assert others == {name: OK for name in CHECKS if name not in but}


def test_a_healthy_run(tmp_path):
    findings = examine(tmp_path)
    assert_others_are_ok(findings)
    assert 'jax ' in findings['versions'].message
    assert '8 × cpu' in findings['devices'].message
    assert "'<|reactive|>' or '<|proactive|>'" in findings['template'].message
    assert 'test 84' in findings['splits'].message
    assert 'data=8' in findings['mesh'].message
    assert '2 new rows' in findings['rows'].message
    assert list(tmp_path.iterdir()) == []


def test_a_mesh_that_does_not_fit(tmp_path):
    findings = examine(tmp_path, mesh__data=3)
    assert_others_are_ok(findings, 'mesh', 'rows', 'disk')
    assert findings['mesh'].verdict == FAIL and 'does not fit 8 devices' in findings['mesh'].message
    assert findings['rows'].verdict == findings['disk'].verdict == SKIPPED
    finding = examine(tmp_path, data__global_batch_rows=12)['mesh']
    assert finding.verdict == FAIL and '--config.data.global_batch_rows' in finding.message


def test_fewer_devices_than_expected(tmp_path):
    findings = examine(tmp_path, mesh__devices=16)
    assert findings['mesh'].verdict == FAIL
    assert 'expected 16 devices, found 8' in findings['mesh'].message


def test_data_that_cannot_be_read(tmp_path):
    bad = tmp_path / 'bad.jsonl'
    bad.write_text('{"messages": [\n')
    findings = examine(tmp_path, data__source=f'jsonl:{bad}')
    assert_others_are_ok(findings, 'data', 'splits')
    assert findings['data'].verdict == findings['splits'].verdict == FAIL
    assert str(bad) in findings['data'].message and ':1' in findings['data'].message


def test_records_that_do_not_fit_a_row(tmp_path):
    findings = examine(tmp_path, data__sequence_length=48)
    assert_others_are_ok(findings, 'data')
    assert findings['data'].verdict == FAIL and 'sequence_length' in findings['data'].message


def test_no_records_to_evaluate_on(tmp_path):
    path = tmp_path / 'train.jsonl'
    write_jsonl(path, sources.load_records('synthetic:40', 'train'))
    findings = examine(tmp_path, data__source=f'jsonl:{path}')
    assert_others_are_ok(findings, 'splits')
    assert (
        findings['splits'].verdict == FAIL and 'evaluation.interval=0' in findings['splits'].message
    )
    findings = examine(tmp_path, data__source=f'jsonl:{path}', evaluation__interval=0)
    assert findings['splits'].verdict == WARN


def test_an_unknown_evaluator(tmp_path):
    findings = examine(tmp_path, evaluation__evaluators='scores,perplexity')
    assert_others_are_ok(findings, 'splits')
    assert findings['splits'].verdict == FAIL
    assert "'perplexity' is not one of scores, loss" in findings['splits'].message


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / 'base'
    shutil.copytree(files.ASSETS / 'tiny-clinical', folder)
    return folder


def test_a_base_without_its_weights(tmp_path, base):
    (base / 'model.safetensors').unlink()
    findings = examine(tmp_path, model__base=str(base))
    assert_others_are_ok(findings, 'base', 'template', 'data', 'mesh', 'rows', 'disk')
    assert findings['base'].verdict == FAIL and 'no model.safetensors' in findings['base'].message
    assert findings['template'].verdict == SKIPPED and 'needs base' in findings['template'].message


def test_a_damaged_base(tmp_path, base):
    weights = base / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    findings = examine(tmp_path, model__base=str(base))
    assert findings['base'].verdict == FAIL and 'damaged or truncated' in findings['base'].message


NO_END_OF_TURN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ('template', 'message'),
    [
        ("{{ raise_exception('never') }}", 'the chat template fails'),
        (NO_END_OF_TURN, 'it does not end a turn with a token of its own'),
    ],
)
def test_a_template_that_cannot_hold_answers(tmp_path, template, message):
    file = tmp_path / 'template.jinja'
    file.write_text(template)
    findings = examine(tmp_path, data__chat_template=str(file))
    assert_others_are_ok(findings, 'template', 'data')
    assert findings['template'].verdict == FAIL and message in findings['template'].message
    assert findings['data'].verdict == SKIPPED


def test_a_full_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    findings = examine(tmp_path)
    assert_others_are_ok(findings, 'disk')
    assert findings['disk'].verdict == FAIL and '0.0 GB free' in findings['disk'].message


def test_a_version_out_of_range(tmp_path, monkeypatch):
    real = workdir.package_version
    monkeypatch.setattr(
        doctor, 'package_version', lambda package: '0.1' if package == 'optax' else real(package)
    )
    findings = examine(tmp_path)
    assert_others_are_ok(findings, 'versions')
    assert (
        findings['versions'].verdict == FAIL and 'optax 0.1, needed' in findings['versions'].message
    )


def test_a_run_started_by_hand(tmp_path, monkeypatch):
    monkeypatch.delenv('GLIBC_TUNABLES')
    findings = examine(tmp_path)
    assert_others_are_ok(findings, 'settings')
    assert findings['settings'].verdict == WARN and env.MALLOC in findings['settings'].message


@pytest.mark.parametrize(
    'mode, expected',
    [('always [madvise] never', ''), ('always madvise [never]', 'no huge pages'), (None, '')],
)
def test_a_system_without_huge_pages(mode, expected, tmp_path, monkeypatch):
    path = tmp_path / 'enabled'
    if mode:
        path.write_text(f'{mode}\n')
    monkeypatch.setattr(env, 'HUGE_PAGES', str(path))
    assert expected in env.missing_settings()
    assert bool(env.missing_settings()) == bool(expected)


def test_behavior_rows_far_from_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, 'NORM_RATIO_RANGE', (2.0, 5.0))
    findings = examine(tmp_path)
    assert_others_are_ok(findings, 'rows')
    assert findings['rows'].verdict == WARN and 'row_init' in findings['rows'].message


def test_the_settings_are_those_of_the_launch_scripts():
    assert f'GLIBC_TUNABLES:-{env.MALLOC}}}' in (ROOT / 'launch' / '_env.sh').read_text()


def test_colour_is_for_the_verdict_alone():
    finding = doctor.Finding('disk', FAIL, 'full')
    assert finding.line() == 'FAIL    disk      full'
    assert finding.line(colour=True) == '\033[31mFAIL    \033[0mdisk      full'


def test_the_command(tmp_path):
    def run_doctor(*arguments):
        flags = ['--config=configs/quickstart.py', *arguments]
        command = [sys.executable, '-m', 'bsft_jax.doctor', *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    done = run_doctor(f'--workdir={tmp_path / "run"}', '--config.data.source=synthetic:40')
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == CHECKS
    bad = run_doctor('--config.data.source=synthetic:40', '--config.mesh.data=3')
    assert bad.returncode == 2
    assert bad.stderr.strip().splitlines()[-1] == 'error: mesh: this run would not start'
    assert bad.stdout.count('FAIL') == 1 and bad.stdout.count('skipped') == 2


def test_splits_that_share_words_or_names(tmp_path):
    records = sources.load_records('synthetic:40', 'train')[:60]
    (tmp_path / 'set').mkdir()
    for split, own in (('train', records), ('validation', records[:3]), ('test', records[3:5])):
        names = {} if split == 'train' else {'id': '', 'case_id': '', 'pair_id': ''}
        own = [dataclasses.replace(r, split='', **names) for r in own]
        write_jsonl(tmp_path / 'set' / f'{split}.jsonl', own)
    checks = Doctor(changed_config(data__source=f'jsonl:{tmp_path / "set"}'), tmp_path / 'run')
    with pytest.raises(doctor.Warned, match='3 of 3 validation .*2 of 2 test records were trained'):
        checks._splits()
    write_jsonl(tmp_path / 'set' / 'test.jsonl', [dataclasses.replace(records[0], split='')])
    with pytest.raises(UserError, match='is in train and in test'):
        checks._splits()
