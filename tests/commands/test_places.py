"""Tests that commands look at the place of their results before they work, and share it."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from bsft_jax import places
from bsft_jax.commands import doctor as doctor_lib
from bsft_jax.commands import evaluate as evaluate_lib
from bsft_jax.commands import export as export_lib
from bsft_jax.config import RunConfig
from bsft_jax.data import sources, tokenizer_training
from bsft_jax.errors import UserError
from bsft_jax.hub import export as hub_export
from bsft_jax.records.record import write_jsonl
from bsft_jax.studies import launchers, launching
from bsft_jax.studies.study import Arm, Study
from bsft_jax.training import workdir as workdir_lib
from tests import run as runs
from tests.conftest import ROOT


@pytest.fixture
def no_work(monkeypatch):
    """Lets everything fail that reads a model or records."""

    def fails(*_, **__):
        raise AssertionError('work has begun')

    for module in (evaluate_lib, export_lib):
        monkeypatch.setattr(module, 'open_model', fails)
    monkeypatch.setattr(evaluate_lib.eval_records, 'load_scorable', fails)
    monkeypatch.setattr(sources, 'load_records', fails)


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """Returns a folder without permission to write; tests may run as root."""
    folder, access = tmp_path / 'closed', os.access
    folder.mkdir()

    def deny(path, mode):
        return pathlib.Path(path) != folder and access(path, mode)

    monkeypatch.setattr(os, 'access', deny)
    return folder


@pytest.fixture
def file(tmp_path):
    (tmp_path / 'file').write_text('')
    return tmp_path / 'file'


def refused(message='cannot be written'):
    return pytest.raises(UserError, match=message)


def test_export_looks_first(no_work, closed, file, tmp_path):
    for output in (closed / 'x', file / 'x', file, tmp_path / ('a' * 300)):
        with refused(r'^--output=.*cannot be written'):
            export_lib.export('run', str(output))
    with refused('exists and is not empty'):
        export_lib.export('run', str(tmp_path))


def test_export_stays_out_of_the_files_of_a_run(no_work, tmp_path):
    workdir_lib.create(tmp_path / 'run', RunConfig())
    (tmp_path / 'run' / 'checkpoints').mkdir()
    for name in ('checkpoints/25', 'checkpoints', 'eval/x', 'tensorboard/a/b'):
        with refused('lies among the files of the run'):
            export_lib.export(str(tmp_path / 'run'), str(tmp_path / 'run' / name))


@pytest.mark.parametrize('model', ['tiny-clinical', ''])
def test_evaluate_looks_first(model, no_work, closed, file, tmp_path):
    def evaluate(workdir, **options):
        runs.evaluate(workdir=str(workdir), model=model, data='synthetic:10', **options)

    for workdir in (closed / 'ev', closed, file, file / 'x'):
        with refused(r'^--workdir=\S+: .*cannot be written'):
            evaluate(workdir)
    with refused('^--name'):
        evaluate(tmp_path / 'run', name='a' * 300)
    with refused('^--workdir=.*lies among the files of the run'):
        workdir_lib.create(tmp_path / 'run', RunConfig())
        evaluate(tmp_path / 'run' / 'checkpoints')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'card.json').write_text('{}')
    with refused('is a data set'):
        evaluate(tmp_path / 'data')


def test_a_study_looks_first(no_work, closed, file, tmp_path):
    arms = Arm('behavior_sft'), Arm('general_sft', {'arm': 'general_sft'})
    study = Study('tiny', str(ROOT / 'configs/quickstart.py'), arms)
    workdir_lib.create(tmp_path / 'run', RunConfig())
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'train.jsonl').write_text('')
    for folder, message in (
        (closed / 's', 'cannot be written'),
        (file, 'cannot be written'),
        (tmp_path / 'run', 'holds no study'),
        (tmp_path / 'data', 'holds no study'),
    ):
        before = sorted(tmp_path.rglob('*'))
        with refused(message):
            launching.run_study(study, folder, launchers.LocalLauncher(folder))
        assert sorted(tmp_path.rglob('*')) == before


def command(name, *flags):
    """Runs a command that must be refused; returns the only line that it prints."""
    process = [sys.executable, '-m', f'bsft_jax.{name}', *flags]
    done = subprocess.run(process, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout) == (2, ''), done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize('output', ['{folder}', '{folder}/file/x', '/dev/null'])
def test_plan_looks_first(output, file, tmp_path):
    output = output.format(folder=tmp_path)
    line = command(
        'plan', '--config=configs/quickstart.py', '--topology=cpu:2', f'--output={output}'
    )
    assert line.startswith(f'error: --output={output}: ')


@pytest.mark.parametrize(
    'name, flags',
    [
        ('train', ['--config=configs/quickstart.py', '--workdir=gs://bucket/run']),
        ('evaluate', ['--workdir=s3://bucket/run']),
        ('export', ['--workdir=run', '--output=gs://bucket/model']),
        ('table', ['--runs=gs://bucket']),
    ],
)
def test_addresses_are_no_places(name, flags):
    line = command(name, *flags)
    assert line.startswith(f'error: flag {flags[-1]}: ') and 'is not a local path' in line


def test_a_required_place_is_not_empty():
    assert command('export', '--workdir=') == 'error: flag --workdir=: is empty'


def test_doctor_looks_first(closed, file, base):
    config = RunConfig()
    config.model.base = str(base)
    for folder in (closed / 'x', file, file / 'x'):
        checks = doctor_lib.Doctor(config, folder)
        with refused(r'^--workdir=\S+: .*cannot be written'):
            checks._disk()


def test_a_tokenizer_is_not_trained_for_a_folder_in_use(no_work, file):
    with refused():
        tokenizer_training.create_blank_model(['synthetic_text:10'], 300, file / 'x')


def test_a_folder_with_a_neighbouring_name_is_left_alone(base, tmp_path):
    import bsft_jax

    for name in ('out.partial', 'out.old', 'out.partial-0123abcd'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'config.json').write_text('mine')
    bsft_jax.save_model(bsft_jax.load_model(base), tmp_path / 'out')
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ['out', 'out.old', 'out.partial', 'out.partial-0123abcd']
    assert all((tmp_path / name / 'config.json').read_text() == 'mine' for name in kept[1:])


def test_an_export_to_a_full_disk_leaves_nothing(base, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    import bsft_jax

    model = bsft_jax.load_model(base)
    lost = SafetensorError('Error while serializing: I/O error: No space left (os error 28)')
    for error in (lost, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):

        def full(tensors, path, metadata, error=error):
            path.write_bytes(b'half')
            raise error

        monkeypatch.setattr(hub_export, 'save_file', full)
        with refused(r'out: cannot be written \(No space left on device\); make room'):
            bsft_jax.save_model(model, tmp_path / 'out')
        assert list(tmp_path.iterdir()) == []


def test_of_two_exports_one_wins_and_the_other_is_told(base, tmp_path, monkeypatch):
    import bsft_jax

    model, verify, first = bsft_jax.load_model(base), hub_export._verify_tokenizer, []

    def overtaken(*arguments):
        verify(*arguments)
        if not first:
            first.append(1)
            bsft_jax.save_model(model, tmp_path / 'out')

    monkeypatch.setattr(hub_export, '_verify_tokenizer', overtaken)
    with refused('another command wrote it meanwhile'):
        bsft_jax.save_model(model, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    bsft_jax.load_model(tmp_path / 'out')


@pytest.fixture
def scored(base, tmp_path):
    """Returns the options of a small evaluation."""
    write_jsonl(tmp_path / 'tasks.jsonl', sources.load_records('synthetic:40', 'test')[:6])
    return {
        'workdir': str(tmp_path / 'ev'),
        'model': str(base),
        'data': f'jsonl:{tmp_path / "tasks.jsonl"}',
        'name': 'x',
    }


def test_of_two_evaluations_one_wins_and_the_other_is_told(scored, tmp_path):
    folder = tmp_path / 'ev' / 'eval' / 'x'
    folder.mkdir(parents=True)
    with places.exclusive(folder, ''), refused('another process is writing there'):
        runs.evaluate(**scored)
    runs.evaluate(**scored)
    names = ['metrics.json', 'predictions.jsonl', 'report.html']
    assert sorted(path.name for path in folder.iterdir()) == names


def test_an_evaluation_on_a_full_disk_leaves_nothing(scored, tmp_path, monkeypatch):
    def full(self, content):
        with self.open('wb') as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
    with refused(r'predictions\.jsonl: cannot be written \(No space left on device\); make room'):
        runs.evaluate(**scored)
    assert list((tmp_path / 'ev' / 'eval').iterdir()) == []
