"""Tests `behavior_bench` of TensorFlow Datasets: written and read back without TensorFlow."""

import json
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from bsft_jax.commands import prepare
from bsft_jax.data import sources, tfds_builder
from bsft_jax.errors import UserError
from bsft_jax.records.record import SPLITS, Message, Record, read_jsonl, write_jsonl

ODD = Record(
    messages=(
        Message('system', 'Be brief.'),
        Message('user', 'Größe 1,80 m — “ok”?\n\nΔ = 3', 'Dr. Itō'),
        Message('assistant', 'Yes.', behavior='proactive'),
    ),
    id='odd',
    split='train',
    must_mention=(('allergy', 'allergies'), ('penicillin',)),
    hard=True,
    difficulty=4,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'set'))
    return tmp_path / 'set'


def test_a_stored_data_set_is_read_back_unchanged(folder):
    card = prepare.prepare(['synthetic:20'], folder, format='tfds')
    assert {path.name for path in folder.iterdir()} == {'behavior_bench', 'card.json'}
    assert sum(file['records'] for file in card['files'].values()) == 20 * 21
    assert all((folder / name).is_file() for name in card['files'])
    for split in SPLITS:
        expected = sources.load_records('synthetic:20', split)
        assert sources.load_records('tfds:behavior_bench/synthetic', split) == expected
        version = folder / 'behavior_bench' / 'synthetic' / '1.1.0'
        assert sources.load_records(f'tfds:{version}', split) == expected
    again = prepare.prepare(['synthetic:10'], folder, format='tfds')
    assert again['counts'] != card['counts']
    assert len(sources.load_records('tfds:behavior_bench/synthetic', 'test')) == 21


def test_every_field_is_read_back(folder):
    tfds_builder.write_tfds(folder, 'jsonl', [ODD, Record(text='Plain text.', split='train')])
    loaded = sources.load_records('tfds:behavior_bench/jsonl', 'train')
    assert loaded == [ODD, Record(text='Plain text.', split='train')]
    with pytest.raises(
        UserError, match=r"tfds:behavior_bench/jsonl: no split 'test', there are train"
    ):
        sources.load_records('tfds:behavior_bench/jsonl', 'test')


def test_the_command_line_stores_and_shows(folder, tmp_path):
    write_jsonl(tmp_path / 'mine.jsonl', [ODD])
    command = [
        sys.executable,
        '-m',
        'bsft_jax.prepare',
        f'--source=jsonl:{tmp_path / "mine.jsonl"}',
        '--format=tfds',
        f'--output={folder}',
        '--inspect=1',
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'behavior_bench/jsonl/1.1.0' in done.stdout.splitlines()[0] and 'Größe' in done.stdout
    source = 'tfds:behavior_bench/jsonl'
    prepare.prepare([source], tmp_path / 'back')
    assert read_jsonl(tmp_path / 'back' / 'train.jsonl') == [ODD]


def test_tfds_itself_prepares_what_the_user_brings(folder, tmp_path):
    for split in ('train', 'validation'):
        write_jsonl(tmp_path / f'{split}.jsonl', [])
    builder = tfds.builder('behavior_bench/jsonl', data_dir=folder, file_format='array_record')
    options = tfds.download.DownloadConfig(manual_dir=tmp_path, try_download_gcs=False)
    with pytest.raises(UserError, match=r'no train\.jsonl with records'):
        builder.download_and_prepare(download_config=options)
    write_jsonl(tmp_path / 'train.jsonl', [ODD])
    write_jsonl(tmp_path / 'test.jsonl', [Record(text='test', split='test')])
    builder.download_and_prepare(download_config=options)
    assert {*builder.info.splits} == {'train', 'test'}
    assert [
        json.loads(row['messages'])[1]['name'] for row in builder.as_data_source(split='train')
    ] == ['Dr. Itō']


def test_it_needs_no_tensorflow():
    code = (
        'import sys; from bsft_jax.data import tfds_builder; sys.exit("tensorflow" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


@pytest.mark.parametrize(
    'name, message',
    [
        ('behavior_bench/open', 'tfds:behavior_bench/open: is not prepared; prepare --format=tfds'),
        (
            'behavior_bench/nothing',
            'tfds:behavior_bench/nothing: is not prepared; prepare --format=tfds',
        ),
        (
            'behavior_bench/not a name',
            'cannot be read by tensorflow_datasets .*not a name.*; prepare --format=tfds',
        ),
        ('mnist_of_nobody', 'tfds:mnist_of_nobody: is not behavior_bench; read other sets by hf:'),
    ],
)
def test_a_missing_data_set_is_one_clear_line(folder, name, message):
    with pytest.raises(UserError, match=message):
        sources.load_records(f'tfds:{name}', 'train')


@pytest.mark.parametrize('left', [0, 100])
def test_a_damaged_shard_is_one_clear_line(folder, left):
    (name,) = tfds_builder.write_tfds(folder, 'jsonl', [ODD])
    (folder / name).write_bytes((folder / name).read_bytes()[:left])
    with pytest.raises(UserError, match='tfds:behavior_bench/jsonl'):
        sources.load_records('tfds:behavior_bench/jsonl', 'train')
