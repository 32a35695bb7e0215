"""Tests of places: checked before work, filled whole or not at all, never another's."""

import errno
import os
import pathlib

import pytest

from bsft_jax import files, places
from bsft_jax.errors import UserError


@pytest.fixture
def run(tmp_path):
    """Returns a folder that looks like the workdir of a run."""
    folder = tmp_path / 'run'
    (folder / 'checkpoints' / '3').mkdir(parents=True)
    (folder / 'config.json').write_text('{"arm": "behavior_sft"}')
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('address', ['gs://bucket/run', 's3://b', 'hdfs://x/y', 'file:///tmp/x'])
def test_addresses_are_refused(address):
    with pytest.raises(ValueError, match='is not a local path'):
        places.parse_place(address)


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert places.parse_place('~/runs/a') == f'{tmp_path}/runs/a'
    assert places.parse_place('~') == str(tmp_path)
    for path in ('runs/~a', 'a:b', 'C:/x', '', '/tmp/gs:/x'):
        assert places.parse_place(path) == path


@pytest.mark.parametrize(
    'path, file, message',
    [
        ('file', False, 'is not a folder'),
        ('file/x', False, 'is not a folder'),
        ('file/x/y/z', True, 'is not a folder'),
        ('folder', True, 'is not a file'),
        ('closed/x', False, 'cannot be written'),
        ('closed/x/y', True, 'cannot be written'),
        ('a' * 300, False, 'name too long'),
        (f'absent/{"ü" * 200}/x', True, 'name too long'),
        ('loop', False, 'cannot be written'),
    ],
)
def test_what_cannot_be_written_is_refused(path, file, message, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'closed').mkdir()
    (tmp_path / 'loop').symlink_to('loop')
    access = os.access

    # Tests may run as root, who can write anywhere.
    def deny_closed(path, mode):
        return pathlib.Path(path).name != 'closed' and access(path, mode)

    monkeypatch.setattr(os, 'access', deny_closed)
    with pytest.raises(UserError, match=f'(?i)^--output=x: .*{message}'):
        places.check_writable(tmp_path / path, '--output=x', file=file)


def test_what_can_be_written_is_not_refused(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('')
    (tmp_path / 'link').symlink_to('folder')
    for path in ('folder', 'link', 'link/x', 'absent', 'a/b/c', 'ü ' * 60):
        places.check_writable(tmp_path / path, '')
    for path in ('file', 'absent', 'a/b/c'):
        places.check_writable(tmp_path / path, '', file=True)
    with pytest.raises(UserError, match='is not a file'):
        places.check_writable('/dev/null', '', file=True)


@pytest.mark.parametrize('name', ['checkpoints/25', 'checkpoints', 'eval/x', 'damaged/1', 'lock'])
def test_the_files_of_a_run_are_no_output(name, run):
    with pytest.raises(UserError, match='lies among the files of the run'):
        places.check_output(run / name, 'output')


def test_other_places_beside_the_files_of_a_run_are(run, tmp_path):
    for path in (run / 'model', run / 'model' / 'checkpoints', tmp_path / 'checkpoints' / 'x', run):
        places.check_output(path, 'output')
    link = tmp_path / 'link'
    link.symlink_to(run / 'checkpoints')
    with pytest.raises(UserError, match='lies among the files of the run'):
        places.check_output(link / 'x', 'output')


def test_studies_and_data_sets_keep_their_files(tmp_path):
    (tmp_path / 'card.json').write_text('{}')
    with pytest.raises(UserError, match='among the files of the data set'):
        places.check_output(tmp_path / 'model', 'output')
    (tmp_path / 'study').mkdir()
    (tmp_path / 'study' / 'study.json').write_text('{}')
    with pytest.raises(UserError, match='among the files of the study'):
        places.check_output(tmp_path / 'study' / 'logs' / 'x', 'output')
    # The runs of a study are there.
    places.check_output(tmp_path / 'study' / 'points' / 'a-s0', 'workdir')


def test_a_study_needs_a_folder_of_its_own(run, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'train.jsonl').write_text('')
    for folder in (run, tmp_path / 'data', tmp_path):
        with pytest.raises(UserError, match='is not empty and holds no study'):
            places.check_study_folder(folder, 'workdir')
    study = tmp_path / 'study'
    places.check_study_folder(study, 'workdir')
    study.mkdir()
    # As a start leaves it that was killed.
    (study / 'study.json.partial-0123abcd').write_text('{')
    places.check_study_folder(study, 'workdir')
    (study / 'study.json').write_text('{}')
    (study / 'points').mkdir()
    places.check_study_folder(study, 'workdir')


def test_a_folder_is_locked_by_one_process(tmp_path):
    refused = pytest.raises(UserError, match='^x: another process is writing there')
    with places.exclusive(tmp_path, 'x'), refused, places.exclusive(tmp_path, 'x'):
        pass
    with places.exclusive(tmp_path, 'x'):
        assert names(tmp_path) == []


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(number, tmp_path, monkeypatch):
    path = tmp_path / 'metrics.json'
    files.write_json(path, {'old': 1})
    neighbour = tmp_path / 'metrics.json.partial'
    neighbour.write_text('mine')

    def full(self, content):
        with self.open('wb') as file:
            file.write(content[:3])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
    with pytest.raises(UserError, match=r'metrics\.json: cannot be written .*make room'):
        files.write_json(path, {'new': 2})
    assert files.read_json(path) == {'old': 1}
    assert names(tmp_path) == ['metrics.json', 'metrics.json.partial']


def test_a_file_with_a_long_name_is_written(tmp_path):
    path = tmp_path / ('x' * 255)
    files.write_text(path, 'text')
    assert path.read_text() == 'text' and names(tmp_path) == [path.name]
    assert files.is_scratch(files.scratch_path(path).name) and not files.is_scratch('x.partial')


def test_metrics_are_read_line_by_line(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    assert files.read_metrics(path) == []
    lines = (b'{"step": 1, "loss": 2.0}', b'5', b'[1]', b'\xff\xfe', b'"x"', b'null', b'true', b'')
    lines += (b'{"step": "x"}', b'{"loss": 1.0}', b'{"step": 2, "loss": "x"}', b'{"step": true}')
    lines += (b'[' * 100_000, b'{"step": 1.5}', b'{"step": 3, "loss": NaN}', b'{"step": 4, "lo')
    path.write_bytes(b'\n'.join(lines))
    assert [row['step'] for row in files.read_metrics(path)] == [1, 3]
    path.unlink()
    path.mkdir()
    assert files.read_metrics(path) == []
