"""`doctor`: a healthy run, and each thing that can be wrong in its own line while the other checks go on."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from bsft_jax import checkup
from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import write_jsonl
from bsft_jax.checkup import FAIL, OK, SKIPPED, WARN, Checkup
from bsft_jax.config import DataSection, EvaluationSection, ModelSection, RunConfig
from bsft_jax.hub import files
from bsft_jax.parallel import settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHECKS = ['versions', 'settings', 'devices', 'base', 'template', 'data', 'splits', 'mesh', 'rows', 'disk']


@pytest.fixture(autouse=True)
def as_launched(monkeypatch):
    monkeypatch.setenv('GLIBC_TUNABLES', settings.MALLOC)


def config(**changes) -> RunConfig:
    data = DataSection(source='synthetic:40', sequence_length=160, rows_per_step=16, answer_format='text')
    made = RunConfig(
        model=ModelSection(base='tiny-clinical'), data=data, evaluation=EvaluationSection(interval=10)
    )
    for path, value in changes.items():
        section, _, field = path.partition('__')
        made = dataclasses.replace(
            made, **{section: dataclasses.replace(getattr(made, section), **{field: value})}
        )
    return made


def look(tmp_path, **changes) -> dict[str, checkup.Finding]:
    return {finding.name: finding for finding in Checkup(config(**changes), tmp_path / 'run')()}


def others_are_well(found, *but):
    assert list(found) == CHECKS
    assert {name: f.verdict for name, f in found.items() if name not in but} == {
        name: OK for name in CHECKS if name not in but
    }


def test_a_healthy_run(tmp_path):
    found = look(tmp_path)
    others_are_well(found)
    assert 'jax ' in found['versions'].said
    assert '8 × cpu' in found['devices'].said
    assert "'<|reactive|>' or '<|proactive|>'" in found['template'].said
    assert 'test 84' in found['splits'].said
    assert 'data=8' in found['mesh'].said
    assert '2 new rows' in found['rows'].said
    assert list(tmp_path.iterdir()) == []


def test_a_mesh_that_does_not_fit(tmp_path):
    found = look(tmp_path, mesh__data=3)
    others_are_well(found, 'mesh', 'rows', 'disk')
    assert found['mesh'].verdict == FAIL and 'does not fit 8 devices' in found['mesh'].said
    assert found['rows'].verdict == found['disk'].verdict == SKIPPED
    rows = look(tmp_path, data__rows_per_step=12)['mesh']
    assert rows.verdict == FAIL and '--config.data.rows_per_step' in rows.said


def test_fewer_devices_than_promised(tmp_path):
    found = look(tmp_path, mesh__devices=16)
    assert found['mesh'].verdict == FAIL and '16 devices are promised' in found['mesh'].said


def test_data_that_cannot_be_read(tmp_path):
    bad = tmp_path / 'bad.jsonl'
    bad.write_text('{"messages": [\n')
    found = look(tmp_path, data__source=f'jsonl:{bad}')
    others_are_well(found, 'data', 'splits')
    assert found['data'].verdict == found['splits'].verdict == FAIL
    assert str(bad) in found['data'].said and ':1' in found['data'].said


def test_records_that_do_not_fit_a_row(tmp_path):
    found = look(tmp_path, data__sequence_length=48)
    others_are_well(found, 'data')
    assert found['data'].verdict == FAIL and 'sequence_length' in found['data'].said


def test_no_records_to_evaluate_on(tmp_path):
    path = tmp_path / 'train.jsonl'
    write_jsonl(path, sources.load_records('synthetic:40', 'train'))
    found = look(tmp_path, data__source=f'jsonl:{path}')
    others_are_well(found, 'splits')
    assert found['splits'].verdict == FAIL and 'evaluation.interval=0' in found['splits'].said
    found = look(tmp_path, data__source=f'jsonl:{path}', evaluation__interval=0)
    assert found['splits'].verdict == WARN


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / 'base'
    shutil.copytree(files.ASSETS / 'tiny-clinical', folder)
    return folder


def test_a_base_without_its_weights(tmp_path, base):
    (base / 'model.safetensors').unlink()
    found = look(tmp_path, model__base=str(base))
    others_are_well(found, 'base', 'template', 'data', 'mesh', 'rows', 'disk')
    assert found['base'].verdict == FAIL and 'no model.safetensors' in found['base'].said
    assert found['template'].verdict == SKIPPED and 'needs base' in found['template'].said


def test_a_damaged_base(tmp_path, base):
    weights = base / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    found = look(tmp_path, model__base=str(base))
    assert found['base'].verdict == FAIL and 'damaged or truncated' in found['base'].said


@pytest.mark.parametrize('template, said', [
    ("{{ raise_exception('never') }}", 'the chat template fails'),
    ("{% for m in messages %}{{ m['content'] }}{% endfor %}", 'it does not end a turn with a token of its own'),
])  # fmt: skip
def test_a_template_without_a_place_for_answers(tmp_path, template, said):
    file = tmp_path / 'template.jinja'
    file.write_text(template)
    found = look(tmp_path, data__chat_template=str(file))
    others_are_well(found, 'template', 'data')
    assert found['template'].verdict == FAIL and said in found['template'].said
    assert found['data'].verdict == SKIPPED


def test_a_full_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    found = look(tmp_path)
    others_are_well(found, 'disk')
    assert found['disk'].verdict == FAIL and '0.0 GB free' in found['disk'].said


def test_a_version_out_of_range(tmp_path, monkeypatch):
    real = checkup.metadata.version
    monkeypatch.setattr(
        checkup.metadata, 'version', lambda package: '0.1' if package == 'optax' else real(package)
    )
    found = look(tmp_path)
    others_are_well(found, 'versions')
    assert found['versions'].verdict == FAIL and 'optax 0.1, needed' in found['versions'].said


def test_started_by_hand(tmp_path, monkeypatch):
    monkeypatch.delenv('GLIBC_TUNABLES')
    found = look(tmp_path)
    others_are_well(found, 'settings')
    assert found['settings'].verdict == WARN and settings.MALLOC in found['settings'].said


def test_rows_far_from_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(checkup, 'ROWS_NORM', (2.0, 5.0))
    found = look(tmp_path)
    others_are_well(found, 'rows')
    assert found['rows'].verdict == WARN and 'new_rows' in found['rows'].said


def test_settings_are_those_of_the_launch_scripts():
    assert f'GLIBC_TUNABLES:-{settings.MALLOC}}}' in (ROOT / 'launch' / '_env.sh').read_text()


def test_colour_is_for_the_verdict_alone():
    finding = checkup.Finding('disk', FAIL, 'full')
    assert finding.line() == 'FAIL    disk      full'
    assert finding.line(colour=True) == '\033[31mFAIL    \033[0mdisk      full'


def test_the_command(tmp_path):
    def doctor(*arguments):
        command = [sys.executable, '-m', 'bsft_jax.doctor', '--config=configs/quickstart.py', *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))

    done = doctor(f'--workdir={tmp_path / "run"}', '--config.data.source=synthetic:40')
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == CHECKS
    bad = doctor('--config.data.source=synthetic:40', '--config.mesh.data=3')
    assert bad.returncode == 2
    assert bad.stderr.strip().splitlines()[-1] == 'error: mesh: this run would not start'
    assert bad.stdout.count('FAIL') == 1 and bad.stdout.count('skipped') == 2
