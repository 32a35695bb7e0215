"""Tests of `prepare`: files, card, what is replaced or refused, and `--inspect`."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from bsft_jax.behaviorbench import splits as splits_lib
from bsft_jax.commands import prepare as prepare_lib
from bsft_jax.data.sources import load_records
from bsft_jax.errors import UserError
from bsft_jax.records.record import SPLITS, Message, Record, read_jsonl, write_jsonl


def records(count=30, prefix='r', **changes):
    return [
        Record(
            messages=(Message('user', f'Which one, {i}?'),),
            **dict(
                id=f'{prefix}{i}',
                case_id=f'{prefix}{i // 2}',
                category='omission_detection',
                group='proactive',
                behavior=('proactive', 'reactive')[i % 2],
                license='CC0-1.0',
                options=('this', 'that'),
                answer=i % 2,
            )
            | changes,
        )
        for i in range(count)
    ]


@pytest.fixture
def source(tmp_path):
    write_jsonl(tmp_path / 'raw.jsonl', records())
    return f'jsonl:{tmp_path / "raw.jsonl"}'


def test_files_and_card(source, tmp_path):
    output = tmp_path / 'a' / 'set'
    card = prepare_lib.prepare([source], output, seed=3)
    assert sorted(os.listdir(output)) == [
        'card.json',
        'test.jsonl',
        'train.jsonl',
        'validation.jsonl',
    ]
    assert os.listdir(output.parent) == ['set']
    assert json.loads((output / 'card.json').read_text()) == card
    splits = {
        split: read_jsonl(output / f'{split}.jsonl') for split in ('train', 'validation', 'test')
    }
    assert sorted(r.id for rows in splits.values() for r in rows) == sorted(r.id for r in records())
    for split, rows in splits.items():
        assert {r.split for r in rows} == {split}
        assert rows == load_records(f'jsonl:{output}', split)
        file = card['files'][f'{split}.jsonl']
        assert file['records'] == len(rows)
        assert (
            file['sha256'] == hashlib.sha256((output / f'{split}.jsonl').read_bytes()).hexdigest()
        )
        # Twins are in one split, so each behavior has half of its records.
        half = len(rows) // 2
        assert card['counts'][split] == {
            'omission_detection': {'proactive': half, 'reactive': half}
        }
    assert card['sources'] == [{'source': source, 'records': 30, 'notes': {}}]
    assert card['licenses'] == ['CC0-1.0']
    assert card['characters_per_record'] == {'min': 21, 'median': 22, 'max': 22}


def test_same_seed_same_bytes_and_other_seed_other_splits(source, tmp_path):
    for name, seed in (('one', 0), ('two', 0), ('three', 1)):
        prepare_lib.prepare([source], tmp_path / name, seed)
    train = {
        name: (tmp_path / name / 'train.jsonl').read_bytes() for name in ('one', 'two', 'three')
    }
    assert train['one'] == train['two'] != train['three']


def test_several_sources_and_notes(source, tmp_path, shared):
    medec = f'medec:{shared / "data" / "medec"}'
    card = prepare_lib.prepare([source, medec], tmp_path / 'set', 0)
    assert [entry['records'] for entry in card['sources']] == [30, 1595]
    assert card['sources'][1]['notes']['clusters'] == 318
    assert card['licenses'] == ['CC-BY-4.0', 'CC0-1.0']
    assert sum(file['records'] for file in card['files'].values()) == 1625


def test_an_earlier_data_set_is_replaced_and_named(source, tmp_path, capsys):
    output = tmp_path / 'set'
    output.mkdir()
    prepare_lib.prepare([source], output, 0)
    write_jsonl(tmp_path / 'new.jsonl', records(6, 'n'))
    capsys.readouterr()
    prepare_lib.prepare([f'jsonl:{tmp_path / "new.jsonl"}'], output, 0)
    assert {r.id for r in load_records(f'jsonl:{output}', 'train')} <= {f'n{i}' for i in range(6)}
    said = f'replaced 30 records of {source} (train 22, validation 4, test 4)\n'
    assert capsys.readouterr().err == said
    card = json.loads((output / 'card.json').read_text())
    (output / 'card.json').write_text(json.dumps(card | {'files': 3}))
    prepare_lib.prepare([source], output, 0)
    assert 'replaced a data set whose card cannot be read' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['new.jsonl', 'raw.jsonl', 'set']


def test_a_data_set_may_be_prepared_from_itself(source, tmp_path):
    output = tmp_path / 'set'
    first = prepare_lib.prepare([source], output, 0)
    again = prepare_lib.prepare([f'jsonl:{output}'], output, 5)
    assert again['files'] == first['files']


@pytest.mark.parametrize('names', [('mine.txt',), ('train.jsonl',), ('card.json', 'mine.txt')])
def test_another_folder_is_refused_and_left_alone(source, tmp_path, names):
    output = tmp_path / 'set'
    output.mkdir()
    for name in names:
        (output / name).write_text('mine')
    with pytest.raises(UserError, match='set: contains files that are not part of a data set'):
        prepare_lib.prepare([source], output, 0)
    assert {path.name: path.read_text() for path in output.iterdir()} == dict.fromkeys(
        names, 'mine'
    )


def test_a_file_and_an_unwritable_folder_are_refused(source, tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(UserError, match='file: is not a folder'):
        prepare_lib.prepare([source], tmp_path / 'file', 0)
    with pytest.raises(UserError, match='cannot be written'):
        prepare_lib.prepare([source], tmp_path / 'file' / 'below', 0)


def test_a_failing_source_leaves_the_earlier_data_set(source, tmp_path):
    output = tmp_path / 'set'
    prepare_lib.prepare([source], output, 0)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(UserError):
        prepare_lib.prepare([source, f'jsonl:{tmp_path / "absent.jsonl"}'], output, 1)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_double_ids_and_a_case_in_two_splits_are_refused(source, tmp_path):
    with pytest.raises(UserError, match="record id 'r0' is also in"):
        prepare_lib.prepare([source, source], tmp_path / 'set', 0)
    torn = records(2, 'a', split='train') + records(2, 'b', split='test', case_id='a0')
    write_jsonl(tmp_path / 'torn.jsonl', torn)
    with pytest.raises(UserError, match="case 'a0' is in train and in test"):
        prepare_lib.prepare([f'jsonl:{tmp_path / "torn.jsonl"}'], tmp_path / 'set', 0)
    assert not (tmp_path / 'set').exists()


def write_source(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return f'jsonl:{path}'


def task(content, **fields):
    return {
        'messages': [{'role': 'user', 'content': content}],
        'options': ['a', 'b'],
        'answer': 0,
        **fields,
    }


def test_a_row_without_a_split_among_others_is_refused(tmp_path):
    rows = [task(f'q{i}', id=f'r{i}', split='test' if i < 20 else 'train') for i in range(100)]
    del rows[50]['split']
    source = write_source(tmp_path / 'raw.jsonl', rows)
    for use in (
        lambda: prepare_lib.prepare([source], tmp_path / 'set'),
        lambda: load_records(source, 'train'),
    ):
        with pytest.raises(
            UserError, match="1 of 100 records name no split, the first is number 51, record 'r50'"
        ):
            use()


def test_twins_without_a_case_stay_together(tmp_path):
    rows = [task(f'q{i}', id=f'r{i}', pair_id=f'p{i // 2}') for i in range(100)]
    prepare_lib.prepare([write_source(tmp_path / 'raw.jsonl', rows)], tmp_path / 'set')
    splits_of_pairs = {
        (r.pair_id, r.split)
        for split in SPLITS
        for r in read_jsonl(tmp_path / f'set/{split}.jsonl')
    }
    assert len(splits_of_pairs) == 50
    torn = [row | {'split': ('train', 'test')[i % 2]} for i, row in enumerate(rows)]
    with pytest.raises(UserError, match="pair 'p0' is in train and in test"):
        prepare_lib.prepare([write_source(tmp_path / 'torn.jsonl', torn)], tmp_path / 'other')


def test_the_same_text_under_two_ids_is_in_one_split(tmp_path):
    rows = [task(f'The same question, no. {i // 2}?', id=f'r{i}') for i in range(100)]
    card = prepare_lib.prepare([write_source(tmp_path / 'raw.jsonl', rows)], tmp_path / 'set')
    texts = [{r.messages for r in read_jsonl(tmp_path / f'set/{split}.jsonl')} for split in SPLITS]
    assert sum(map(len, texts)) == 50 and len(set().union(*texts)) == 50
    assert card['leakage'] == {'cases': 100, 'pairs': 0, 'examples': []}


def test_sources_that_share_texts_bring_a_warning(tmp_path):
    note = ' '.join(f'word{k}' for k in range(30))
    train = write_source(tmp_path / 'one.jsonl', [task(note, id='one', split='train')])
    test = write_source(tmp_path / 'two.jsonl', [task(f'{note} again', id='two', split='test')])
    done = run_prepare(f'--source={train}', f'--source={test}', f'--output={tmp_path / "set"}')
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith('warning: '))
    assert line == 'warning: 1 pairs of cases in different splits are nearly the same: two, one'
    assert 'give both of a pair one `split` or leave one of them out' in done.stdout


def test_two_sources_without_ids_do_not_collide(tmp_path):
    sources = [
        write_source(tmp_path / f'{name}.jsonl', [task(f'{name}{i}') for i in range(count)])
        for name, count in (('a', 40), ('b', 60))
    ]
    card = prepare_lib.prepare(sources, tmp_path / 'set')
    assert [file['records'] for file in card['files'].values()] == [80, 10, 10]


def test_a_folder_is_split_by_its_files(tmp_path):
    (tmp_path / 'mine').mkdir()
    for split, count in (('train', 5), ('test', 2)):
        write_source(
            tmp_path / 'mine' / f'{split}.jsonl', [task(f'{split}{i}') for i in range(count)]
        )
    card = prepare_lib.prepare([f'jsonl:{tmp_path / "mine"}'], tmp_path / 'set')
    assert [file['records'] for file in card['files'].values()] == [5, 0, 2]
    # The set has an empty validation.jsonl.
    again = prepare_lib.prepare([f'jsonl:{tmp_path / "set"}'], tmp_path / 'again')
    assert again['files'] == card['files']
    write_source(tmp_path / 'mine' / 'train.jsonl', [task('a', id='x', split='test'), task('b')])
    for use in (
        lambda: prepare_lib.prepare([f'jsonl:{tmp_path / "mine"}'], tmp_path / 'set'),
        lambda: load_records(f'jsonl:{tmp_path / "mine"}', 'train'),
    ):
        with pytest.raises(UserError, match=r"train\.jsonl: record 'x' names the split 'test'"):
            use()


@pytest.mark.parametrize('error', [OSError(16, 'Device or resource busy'), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_replaced_stays_whole(error, source, tmp_path, monkeypatch):
    output, replace = tmp_path / 'set', os.replace
    prepare_lib.prepare([source], output, 0)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def fail_at_the_swap(old, new):
        if str(old).endswith('.partial') and str(new) == str(output):
            raise error
        replace(old, new)

    monkeypatch.setattr(os, 'replace', fail_at_the_swap)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        prepare_lib.prepare([source], output, 1)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['raw.jsonl', 'set']


@pytest.mark.parametrize('name', ['set.old', 'set.partial', '.set.writing-mine'])
@pytest.mark.parametrize('file', ['mine.txt', 'train.jsonl'])
def test_a_neighbour_of_a_similar_name_is_left_alone(name, file, source, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / file).write_text('mine')
    for seed in (0, 1):
        prepare_lib.prepare([source], tmp_path / 'set', seed)
    assert (tmp_path / name / file).read_text() == 'mine'


def test_of_two_writers_one_wins_and_the_other_is_told(source, tmp_path):
    """Tests that the second of two, which began meanwhile, is there whole and the first refused."""
    output = tmp_path / 'set'

    def write_meanwhile(_):
        prepare_lib.prepare(['synthetic:10'], output, 0)

    for _ in range(2):  # onto nothing, and onto a data set
        with pytest.raises(UserError, match='another command wrote it meanwhile'):
            prepare_lib.prepare([source], output, 0, inspect=write_meanwhile)
        assert load_records(f'jsonl:{output}', 'test')[0].id.startswith('syn-')
        assert sorted(path.name for path in tmp_path.iterdir()) == ['raw.jsonl', 'set']


def test_commands_at_once_leave_one_whole_set(tmp_path):
    commands = [
        [sys.executable, '-m', 'bsft_jax.prepare', f'--source=synthetic:{n}', '--output=set']
        for n in (10, 12, 14)
    ]
    running = [
        subprocess.Popen(c, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for c in commands
    ]
    ended = [(process.communicate(), process.returncode) for process in running]
    assert {code for _, code in ended} <= {0, 2} and 0 in {code for _, code in ended}
    for (_, stderr), code in ended:
        assert code == 0 or (stderr.startswith('error: ') and 'meanwhile' in stderr)
    card = json.loads((tmp_path / 'set' / 'card.json').read_text())
    for name, file in card['files'].items():
        content = (tmp_path / 'set' / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file['sha256']
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def words(count, first=0):
    return ' '.join(f'word{first + k}' for k in range(count))


def splits_of(folder):
    """Returns split → records of a prepared set."""
    return {split: read_jsonl(folder / f'{split}.jsonl') for split in SPLITS}


def apart(folder):
    """Returns whether no words are in two splits of a prepared set."""
    texts = [{splits_lib.record_words(r) for r in own} for own in splits_of(folder).values()]
    return sum(map(len, texts)) == len(set().union(*texts)) and all(texts)


@pytest.mark.parametrize('case', ['', 'c'])
def test_sources_without_splits_are_split_together(case, tmp_path):
    """Tests words that two sources share, without and with the same names of cases."""
    sources = []
    for name, count in (('a', 40), ('b', 30)):
        rows = [
            task(f'Question number {i} about the liver?', id=f'{name}{i}', case_id=case and f'c{i}')
            for i in range(count)
        ]
        sources.append(write_source(tmp_path / f'{name}.jsonl', rows))
    card = prepare_lib.prepare(sources, tmp_path / 'set')
    assert apart(tmp_path / 'set') and card['leakage']['pairs'] == 0
    for seed in range(1, 4):
        prepare_lib.prepare(sources[::-1], tmp_path / 'set', seed)
        assert apart(tmp_path / 'set')


def test_a_source_follows_the_splits_that_another_one_names(tmp_path):
    """Tests by case, by words in capitals with the options permuted, and by a near duplicate."""
    notes = {i: words(40, 100 * i) for i in range(30)}
    named = [task(notes[i], id=f'n{i}', case_id=f'c{i}', split=SPLITS[i % 3]) for i in range(30)]
    free = [task('Another question.', id='f0', case_id='c1')]
    free += [task(notes[2].upper(), id='f1', options=['b', 'a'])]
    free += [task(f'{notes[5]} and fever', id='f2'), task(f'{notes[4]} and a cough', id='f3')]
    sources = [
        write_source(tmp_path / 'named.jsonl', named),
        write_source(tmp_path / 'free.jsonl', free),
    ]
    for order in (sources, sources[::-1]):
        card = prepare_lib.prepare(order, tmp_path / 'set')
        split_of = {r.id: split for split, own in splits_of(tmp_path / 'set').items() for r in own}
        assert [split_of[f'f{i}'] for i in range(4)] == ['validation', 'test', 'test', 'validation']
        assert card['leakage']['pairs'] == 0


def twins(count):
    """Returns notes, each with a twin of another case that says one word otherwise."""
    return [
        task(
            f'{words(30, 50 * i)} {kind} {words(10, 50 * i + 30)}\n\nIs there an error?',
            id=f'{kind}{i}',
            case_id=f'{kind}{i}',
            behavior=behavior,
            category='error_correction',
        )
        for i in range(count)
        for kind, behavior in (('right', 'reactive'), ('wrong', 'proactive'))
    ]


def test_near_duplicates_of_other_cases_stay_together_and_in_one_fold(tmp_path, capsys):
    source = write_source(tmp_path / 'notes.jsonl', twins(80))
    card = prepare_lib.prepare([source], tmp_path / 'set')
    assert card['leakage'] == {'cases': 80, 'pairs': 0, 'examples': []}
    assert card['sources'][0]['notes'] == {'joined_to_a_near_duplicate': 80}
    for own in splits_of(tmp_path / 'set').values():
        cases = [r.case_id for r in own]
        assert all(cases.count(case) == 2 for case in cases)
    # In different folds each twin would be told by the other one, wrongly.
    measured = card['shortcuts']['categories']['error_correction']['behavior']['bag_of_words']
    assert measured['cross_validated'] > 0.4


@pytest.mark.parametrize(
    'content',
    [
        # Requests and options outweigh the notes, in one paragraph and in two, before and behind.
        lambda i: f'Finding {i * 7919} of {i * 31}. {words(40)}',
        lambda i: f'Finding {i * 7919} of {i * 31}.\n\n{words(40)}',
        lambda i: f'{words(40)}\n\nFinding {i * 7919} of {i * 31}.',
        lambda i: f'{words(40, 100 * (i % 13))} Finding {i * 7919} of {i * 31}.',
    ],
)
@pytest.mark.parametrize('count', [6, 130, 600])
def test_distinct_notes_of_one_form_are_no_near_duplicates(content, count, tmp_path):
    options = [words(15, 1000), words(15, 2000)]
    rows = [task(content(i), id=f'r{i}', options=options) for i in range(count)]
    card = prepare_lib.prepare([write_source(tmp_path / 'x.jsonl', rows)], tmp_path / 'set')
    assert card['leakage'] == {'cases': count, 'pairs': 0, 'examples': []}
    tenth = max(1, count // 10)
    assert [f['records'] for f in card['files'].values()] == [count - 2 * tenth, tenth, tenth]


def test_texts_that_fill_in_one_form_do_not_end_in_one_split(tmp_path):
    """Tests records that chain all together, each near to the next."""
    rows = [task(words(40, 12 * i), id=f'r{i}') for i in range(100)]
    card = prepare_lib.prepare([write_source(tmp_path / 'x.jsonl', rows)], tmp_path / 'set')
    assert [f['records'] for f in card['files'].values()] == [80, 10, 10]
    assert card['leakage']['pairs'] > 0


def test_a_printed_record_marks_the_answer():
    message = Message('user', 'Ready?', name='Dr. Ito')
    record = Record(
        messages=(message,),
        id='x',
        options=('Yes', 'No'),
        option_behaviors=('reactive', 'proactive'),
        answer=1,
        difficulty=3,
    )
    assert prepare_lib.format_record(record).splitlines() == [
        '--- x | difficulty 3',
        '[Dr. Ito] Ready?',
        '  A. Yes  (reactive)',
        '* B. No  (proactive)',
    ]
    assert prepare_lib.format_record(Record(text='Some words.')).splitlines()[1:] == ['Some words.']


def run_prepare(*arguments):
    command = [sys.executable, '-m', 'bsft_jax.prepare', *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command(tmp_path):
    done = run_prepare('--source=synthetic:20', f'--output={tmp_path / "set"}', '--inspect=2')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('\n--- ') == done.stdout.count('\nid:weight: ') == 2
    assert re.search(r'⟦<\|(reactive|proactive)\|>⟧⟦Answer: [A-D]\. ', done.stdout)
    assert 'train.jsonl: ' in done.stdout
    failed = run_prepare('--source=medec:/nowhere', f'--output={tmp_path / "other"}')
    assert failed.returncode == 2
    assert failed.stderr.splitlines() == ['error: medec:/nowhere: no such folder']
    unknown = run_prepare('--source=magic:1', f'--output={tmp_path / "other"}')
    assert unknown.returncode == 2 and len(unknown.stderr.splitlines()) == 1
    unseen = run_prepare(
        '--source=synthetic:3', f'--output={tmp_path / "other"}', '--inspect=1', '--base=/nowhere'
    )
    assert unseen.returncode == 2 and len(unseen.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('labelled', [0, 1])
def test_records_without_a_behavior_are_shown_without_a_token(tmp_path, labelled):
    rows = [{'prompt': f'Question {i}?', 'completion': 'Fine.', 'split': 'train'} for i in range(3)]
    rows[-1] |= {'behavior': 'reactive'} if labelled else {}
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    done = run_prepare(
        f'--source=jsonl:{tmp_path / "rows.jsonl"}', f'--output={tmp_path / "set"}', '--inspect=3'
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('\nid:weight: ') == 3
    assert done.stdout.count('⟦<|reactive|>⟧') == labelled


def test_records_of_other_behaviors_are_inspected(tmp_path):
    """Tests behaviors that a config names, and without a config those that the records name."""
    rows = [
        Record(
            (Message('user', f'Is {i} urgent?'),),
            id=f'r{i}',
            behavior='cautious',
            options=('yes', 'no'),
            answer=0,
        )
        for i in range(6)
    ]
    write_jsonl(tmp_path / 'rows.jsonl', rows)
    (tmp_path / 'mine.py').write_text(
        'from bsft_jax.behaviors import Behavior\n'
        'from bsft_jax.config import RunConfig\n'
        'def get_config(arg=""):\n'
        '    return RunConfig(behaviors=(Behavior("brief", 0.0, "answer shortly"),\n'
        '                                Behavior("cautious", 0.5, "name doubts")))\n'
    )
    source = f'--source=jsonl:{tmp_path / "rows.jsonl"}'
    for name, config in (('plain', ()), ('config', (f'--config={tmp_path / "mine.py"}',))):
        output = tmp_path / name
        done = run_prepare(source, f'--output={output}', '--inspect=2', *config)
        assert done.returncode == 0, done.stderr
        assert '⟦<|cautious|>⟧' in done.stdout
        assert sorted(path.name for path in output.iterdir()) == sorted(prepare_lib.FILES)


def test_a_behavior_that_the_config_does_not_have_is_refused(tmp_path):
    write_jsonl(tmp_path / 'rows.jsonl', records(6, behavior='cautious'))
    done = run_prepare(
        f'--source=jsonl:{tmp_path / "rows.jsonl"}',
        f'--output={tmp_path / "set"}',
        '--inspect=1',
        '--config=configs/quickstart.py',
    )
    assert done.returncode == 2
    assert "unknown behavior 'cautious'" in done.stderr and done.stderr.count('\n') == 1
    assert not (tmp_path / 'set').exists()
