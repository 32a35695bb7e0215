"""Tests malformed and hostile files: one clear line each, and nothing half-written."""

import csv
import json
import subprocess
import sys

import pytest

from bsft_jax.commands import prepare as app
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records import column_map, readers
from bsft_jax.records.record import read_jsonl

GOOD = {'messages': [{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]}
TASK = {'prompt': 'q', 'options': ['a', 'b'], 'answer': 0}
GOOD_LINE = json.dumps(GOOD).encode() + b'\n'


def text(obj):
    return json.dumps(obj).encode() + b'\n'


FILES = {
    'a line of 50 MB': (
        GOOD_LINE + b'{"prompt": "' + b'x' * 50_000_000 + b'"}\n',
        ':2: a line of more than 16 MiB',
    ),
    'one line without end': (b'[' * 20_000_000, ':1: a line of more than 16 MiB'),
    'invalid UTF-8': (
        GOOD_LINE + b'{"text": "\xff"}\n',
        r':2: not UTF-8 \(invalid start byte at byte 10',
    ),
    'UTF-16': (json.dumps(GOOD).encode('utf-16'), ':1: not UTF-8 but UTF-16; save'),
    'NUL bytes': (GOOD_LINE + b'{"text": "a\0b"}\n', ':2: a NUL byte in column 12'),
    'a tail of NUL bytes': (GOOD_LINE + b'\0' * 4096, ':2: a NUL byte in column 1'),
    'an escaped NUL': (
        GOOD_LINE + text({'text': 'a\0b'}),
        r":2: field 'text' holds the character U\+0000",
    ),
    'half a character': (rb'{"text": "\ud83d"}', r":1: field 'text' holds the character U\+D83D"),
    'a NUL in a turn': (
        text({'prompt': '\0'}),
        r":1: messages\[0\]: field 'content' holds .* U\+0000",
    ),
    'a NUL in an option': (text(TASK | {'options': ['a', '\0']}), r":1: field 'options' holds"),
    'double ids': (text(GOOD | {'id': 'x'}) * 2, r":2: field 'id': 'x' is also at .*bad\.jsonl:1"),
    'an index as text': (
        text(TASK | {'answer': '0'}),
        ":1: field 'answer' must be an index, got '0'",
    ),
    'an index as a fraction': (
        text(TASK | {'answer': 0.0}),
        ":1: field 'answer' must be an index, got 0.0",
    ),
    '1,000 options': (
        text(TASK | {'options': [str(i) for i in range(1000)]}),
        ":1: field 'options': 1000 options, 2 to 26 are possible",
    ),
    'an empty file': (b'', ': no records in it'),
    'empty lines': (b'\n \n\t\n', ': no records in it'),
    'half a line': (GOOD_LINE + GOOD_LINE[:30], ':2: not valid JSON'),
    'deep brackets': (b'[' * 1_000_000, ':1: not readable JSON'),
    'a long number': (b'{"answer": ' + b'9' * 5000 + b'}', ':1: not readable JSON'),
    'double keys': (
        b'{"text": "a", "text": "b"}',
        ":1: not readable JSON \\(the key 'text' is there twice",
    ),
    'brackets too deep for a record': (
        b'{"text": ' + b'[' * 800 + b']' * 800 + b'}',
        ':1: (nested too deep|not readable JSON)',
    ),
    'a list': (b'[1, 2]', ':1: a record must be an object, got list'),
    'a gzip file': (b'\x1f\x8b\x08\0\0\0\0\0', ':1: (not UTF-8|a NUL byte)'),
}


@pytest.mark.parametrize('name', FILES)
def test_a_hostile_file_is_one_clear_line_and_leaves_nothing(name, tmp_path):
    content, message = FILES[name]
    path = tmp_path / 'bad.jsonl'
    path.write_bytes(content)
    for use in (
        lambda: read_jsonl(path),
        lambda: sources.load_records(f'jsonl:{path}', 'train'),
        lambda: app.prepare([f'jsonl:{path}'], tmp_path / 'set'),
    ):
        with pytest.raises(UserError, match=f'bad.jsonl{message}') as caught:
            use()
        assert '\n' not in str(caught.value) and len(str(caught.value)) < 400
    assert [entry.name for entry in tmp_path.iterdir()] == ['bad.jsonl']


TABLES = {
    'a wide row': (b'q,a\n1,2\n1,2,3\n', ':3: 3 cells below 2 columns'),
    'a short row': (b'q,a\n1\n', ':2: 1 cells below 2 columns'),
    'a double column': (b'q,q\n1,2\n', ":1: two columns are called 'q'"),
    'an open quote': (b'q,a\n"1,2\n3,4\n', ':3: not valid CSV'),
    'text behind a quote': (b'q,a\n"1"x,2\n', ':2: not valid CSV'),
    'a NUL byte': (b'q,a\n1,\0\n', ':2: a NUL byte in column 3'),
    'Latin-1': ('q,a\né,2\n'.encode('latin-1'), ':2: not UTF-8'),
    'a header alone': (b'q,a\n', ': no records in it'),
    'nothing': (b'', ': no records in it'),
    'a line of 20 MB': (b'q,a\n' + b'x' * 20_000_000, ':2: a line of more than 16 MiB'),
}


@pytest.mark.parametrize('name', TABLES)
def test_a_hostile_table_is_one_clear_line_and_leaves_nothing(name, tmp_path):
    content, message = TABLES[name]
    (tmp_path / 'bad.csv').write_bytes(content)
    columns = column_map.ColumnMap({'question': 'q', 'rationale': 'a'})
    with pytest.raises(UserError, match=rf'bad\.csv{message}'):
        app.prepare([f'csv:{tmp_path}/bad.csv'], tmp_path / 'set', 0, columns)
    assert [entry.name for entry in tmp_path.iterdir()] == ['bad.csv']


def test_long_cells_and_a_byte_order_mark_are_no_error(tmp_path):
    note = 'low ' * 100_000
    with (tmp_path / 'x.csv').open('w', newline='', encoding='utf-8-sig') as file:
        csv.writer(file).writerows(
            [('prompt', 'completion'), (note, 'two\nlines "quoted"'), ('b', '')]
        )
    first, second = sources.load_raw(f'csv:{tmp_path}/x.csv', 0)[0]
    assert [m.content for m in first.messages] == [note, 'two\nlines "quoted"']
    assert [m.content for m in second.messages] == ['b']
    (tmp_path / 'x.jsonl').write_bytes(b'\xef\xbb\xbf' + GOOD_LINE)
    assert len(read_jsonl(tmp_path / 'x.jsonl')) == 1


@pytest.mark.parametrize('read', [readers.read_jsonl_rows, readers.read_csv_rows])
def test_a_folder_or_a_missing_file_is_refused(read, tmp_path):
    with pytest.raises(UserError, match='is a folder, not a file'):
        list(read(tmp_path))
    with pytest.raises(UserError, match='absent: no such file'):
        list(read(tmp_path / 'absent'))


@pytest.mark.parametrize(
    ('name', 'fix'),
    [('x.csv', 'prepare it by csv:'), ('x.jsonl', 'use jsonl:'), ('x.xlsx', 'export it as CSV')],
)
def test_a_file_that_hf_does_not_read_names_the_fix(name, fix, tmp_path):
    (tmp_path / name).write_bytes(b'')
    with pytest.raises(
        UserError, match=f'hf:.*{name}: is a file, of which hf: reads Parquet alone; {fix}'
    ):
        readers.read_hugging_face_splits(f'{tmp_path}/{name}')


def run(app, *arguments):
    return subprocess.run(
        [sys.executable, '-m', f'bsft_jax.{app}', *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize('name', ['invalid UTF-8', 'double ids', 'an empty file'])
def test_the_commands_exit_with_2_and_one_line(name, tmp_path):
    path = tmp_path / 'bad.jsonl'
    path.write_bytes(FILES[name][0])
    prepared = run('prepare', f'--source=jsonl:{path}', f'--output={tmp_path}/set')
    trained = run(
        'train',
        '--config=configs/quickstart.py',
        f'--config.data.source=jsonl:{path}',
        f'--workdir={tmp_path}/run',
    )
    for done in (prepared, trained):
        assert done.returncode == 2 and done.stdout == ''
        (line,) = done.stderr.splitlines()
        assert line.startswith(f'error: {path}:')
    assert [entry.name for entry in tmp_path.iterdir()] == ['bad.jsonl']


def test_generate_refuses_a_folder_as_input(tmp_path):
    done = run('generate', '--model=tiny-clinical', f'--input={tmp_path}')
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f'error: {tmp_path}: is a folder, not a file']


def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / 'x.jsonl').write_bytes(GOOD_LINE * 3)

    def fail(path, records):
        path.write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(app, 'write_jsonl', fail)
    with pytest.raises(UserError, match=r'set: cannot be written \(No space left on device\)'):
        app.prepare([f'jsonl:{tmp_path}/x.jsonl'], tmp_path / 'set')
    assert [entry.name for entry in tmp_path.iterdir()] == ['x.jsonl']
