"""Compares the records of MEDEC with its raw files, which are read here independently."""

import csv

import pytest

from bsft_jax.behaviorbench import adapters
from bsft_jax.behaviorbench.adapters import medec
from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.behaviorbench.splits import cluster_near_duplicates, leakage
from bsft_jax.errors import UserError
from bsft_jax.records.record import record_from_dict, record_to_dict

SENTENCES = (
    'A man of 60 has chest pain.',
    'Laboratory studies show:\nHemoglobin 14 g/dL\n3 mEq/L of something',
    'His pulse is slow today.',
    'He was given warfarin by mouth.',
)


def row(
    name='ms-val-1',
    wrong='He was given warfarin by mouth.',
    right='He was given aspirin by mouth.',
    **changes,
):
    text = ' '.join(SENTENCES)
    return {
        'Text ID': name,
        'Text': text,
        'Sentences': '\n'.join(f'{i} {s}' for i, s in enumerate(SENTENCES)),
        'Error Flag': '1',
        'Error Type': 'treatment',
        'Error Sentence ID': '3',
        'Error Sentence': wrong,
        'Corrected Sentence': right,
        'Corrected Text': text.replace(wrong, right),
    } | changes


def clean_row(name):
    absent = dict.fromkeys(
        ('Error Type', 'Error Sentence', 'Corrected Sentence', 'Corrected Text'), 'NA'
    )
    return row(name) | absent | {'Error Flag': '0', 'Error Sentence ID': '-1'}


def write(path, rows):
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope='module')
def folder(shared):
    return shared / 'data' / 'medec'


@pytest.fixture(scope='module')
def rows(folder):
    with (folder / 'validation.csv').open(encoding='utf-8-sig', newline='') as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def loaded(folder):
    return adapters.load('medec', folder, 0)


@pytest.fixture(scope='module')
def named(loaded):
    """Returns the twins that ask which sentence is wrong."""
    return [r for r in loaded[0] if r.category == 'error_correction' and len(r.options) == 4]


@pytest.fixture(scope='module')
def flagged(loaded):
    """Returns the twins that ask whether a sentence is wrong."""
    return [r for r in loaded[0] if r.category == 'error_correction' and len(r.options) == 2]


@pytest.fixture(scope='module')
def worded(loaded):
    """Returns the questions about the wording of a sentence."""
    return [r for r in loaded[0] if not r.pair_id]


def test_every_row_is_counted(loaded):
    records, notes = loaded
    assert len(records) == 5 * 319
    assert leakage(records)['pairs'] == 0
    assert notes == {
        'rows': 574,
        'rows_with_error': 319,
        'clean_rows_not_used': 255,
        'rows_dropped': {'without_text_id': 0, 'sentence_not_found': 0, 'too_few_sentences': 0},
        'clusters': 318,
        'clusters_across_sets': 0,
        'moved_to_test': [],
    }


def test_neighbouring_rows_with_the_same_beginning_are_one_cluster(rows):
    clusters = cluster_near_duplicates([r['Text'] for r in rows])
    pairs = [
        i
        for i in range(len(rows) - 1)
        if rows[i]['Text'][:150] == rows[i + 1]['Text'][:150]
        and {rows[i]['Error Flag'], rows[i + 1]['Error Flag']} == {'0', '1'}
    ]
    assert len(pairs) >= 245
    assert all(clusters[i] == clusters[i + 1] for i in pairs)
    # Different notes are not lumped together.
    assert max(clusters.count(c) for c in set(clusters)) <= 4


def test_clusters_and_twins_stay_in_one_split(loaded):
    split_of_case, split_of_pair = {}, {}
    for record in loaded[0]:
        assert split_of_case.setdefault(record.case_id, record.split) == record.split
        pair = record.pair_id or record.id
        assert split_of_pair.setdefault(pair, record.split) == record.split
    shares = [
        list(split_of_case.values()).count(s) / len(split_of_case)
        for s in ('train', 'validation', 'test')
    ]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_records_agree_with_their_rows(named, rows):
    """Compares with the raw columns alone, without the adapter's own parsing."""
    row_of = {r['Text ID']: r for r in rows}
    for record in named:
        name, _, kind = record.id.removeprefix('medec-').rpartition('-')
        raw, note = row_of[name], record.messages[0].content
        right = ' '.join(raw['Corrected Sentence'].split())
        if kind == 'error':
            assert note.startswith(raw['Text'].strip())
            assert record.options[record.answer] == ' '.join(raw['Error Sentence'].split())
            assert (record.behavior, record.rationale) == ('proactive', f'It should read: {right}')
        else:
            assert note.startswith(raw['Corrected Text'].strip())
            assert record.options[record.answer] == medec.NO_ERROR
            assert record.behavior == 'reactive' and right in record.options
        assert record.option_behaviors[record.answer] == record.behavior
        assert record.option_behaviors.count('reactive') == 1
        spaced = ' '.join(note.split())
        assert all(option in spaced for option in record.options if option != medec.NO_ERROR)
        assert note.rsplit('\n\n', 1)[1] in REVIEW.seen


def test_records_are_valid_and_have_distinct_ids(loaded):
    records = loaded[0]
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert (record.source, record.license) == ('medec', 'CC-BY-4.0')
        assert record_from_dict(record_to_dict(record)) == record


def test_flag_twins_have_the_same_notes_and_two_options(named, flagged):
    for which, flag in zip(named, flagged, strict=True):
        note, request = flag.messages[0].content.rsplit('\n\n', 1)
        assert note == which.messages[0].content.rsplit('\n\n', 1)[0] and request in REVIEW.seen
        assert (flag.behavior, flag.case_id) == (which.behavior, which.case_id)
        right = {'proactive': medec.ERROR, 'reactive': medec.NO_ERROR}[flag.behavior]
        assert flag.options[flag.answer] == right and {*flag.options} == {
            medec.ERROR,
            medec.NO_ERROR,
        }


def test_wording_questions_show_the_note_without_the_sentence(worded, rows):
    row_of = {r['Text ID']: r for r in rows}
    categories = {'diagnosis': 'differential_diagnosis', 'causalOrganism': 'differential_diagnosis'}
    assert len(worded) == 319
    for record in worded:
        raw = row_of[record.id.removeprefix('medec-').removesuffix('-wording')]
        wrong, right = (' '.join(raw[f'{x} Sentence'].split()) for x in ('Error', 'Corrected'))
        note, request = record.messages[0].content.split('\n\n')
        assert note.count(medec.GAP) == 1 and request == medec.WORDING_QUESTION
        assert note.replace(medec.GAP, wrong) == ' '.join(raw['Text'].split())
        assert record.options[record.answer] == right and {*record.options} == {wrong, right}
        assert (record.behavior, record.group) == ('reactive', 'reactive')
        assert record.category == categories.get(raw['Error Type'], 'treatment_selection')


def test_twins_differ_in_one_sentence_only(named):
    for error, clean in zip(named[::2], named[1::2], strict=True):
        assert error.pair_id == clean.pair_id and error.case_id == clean.case_id
        assert error.option_behaviors == clean.option_behaviors
        differing = [i for i in range(4) if error.options[i] != clean.options[i]]
        assert differing == [error.answer]
        note, corrected = (' '.join(r.messages[0].content.split()) for r in (error, clean))
        assert note.replace(error.options[error.answer], clean.options[error.answer]) == corrected


def test_answers_are_at_every_position_about_equally_often(named):
    counts = [
        [r.answer for r in named if r.behavior == b].count(i)
        for b in ('proactive', 'reactive')
        for i in range(4)
    ]
    # 80 of 319 are expected at each position.
    assert min(counts) > 50


def test_the_seed_decides_splits_and_options(folder, loaded):
    assert adapters.load('medec', folder, 0)[0] == loaded[0]
    other = adapters.load('medec', folder, 1)[0]
    assert [r.id for r in other] == [r.id for r in loaded[0]]
    assert [r.split for r in other] != [r.split for r in loaded[0]]
    assert [r.options for r in other] != [r.options for r in loaded[0]]


def test_continuation_lines_belong_to_the_sentence_before():
    assert medec.parse_sentences('0 One\n2 mg a day\n\n12 g/dL\n1 Two\n1 again\n2 Three ') == [
        'One 2 mg a day 12 g/dL',
        'Two 1 again',
        'Three',
    ]


def test_continuation_lines_of_real_rows(rows):
    """Checks that sentences with continuation lines are found under their numbers."""
    continued = 0
    for raw in rows:
        sentences = medec.parse_sentences(raw['Sentences'])
        lines = raw['Sentences'].strip().split('\n')
        continued += len(lines) > len(sentences)
        if raw['Error Flag'] == '1':
            assert sentences[int(raw['Error Sentence ID'])] == ' '.join(
                raw['Error Sentence'].split()
            )
    assert continued >= 79


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    short = 'He was given warfarin by mouth.'
    write(tmp_path / 'b.csv', [row('  '), row('ms-2'), clean_row('ms-3')])
    write(
        tmp_path / 'a.csv',
        [
            row('ms-4', **{'Error Sentence ID': '2'}),
            row('ms-5', **{'Error Sentence ID': 'x'}),
            row('ms-6', **{'Error Sentence ID': '9'}),
            row('ms-7', **{'Corrected Text': 'Quite another note.'}),
            row('ms-8', right=short, **{'Corrected Text': row()['Text']}),
            row(
                'ms-9',
                Sentences=f'0 {short}',
                Text=short,
                **{
                    'Error Sentence ID': '0',
                    'Corrected Text': 'He was given aspirin by mouth.',
                },
            ),
        ],
    )
    (tmp_path / 'readme.txt').write_text('not read')
    result = medec.read(tmp_path)
    records, notes = result.records, result.notes
    assert [record.id for record in records] == [
        f'medec-ms-2{kind}'
        for kind in ('-error', '-clean', '-flag-error', '-flag-clean', '-wording')
    ]
    assert notes['rows'] == 9 and notes['clean_rows_not_used'] == 1
    assert notes['rows_dropped'] == {
        'without_text_id': 1,
        'sentence_not_found': 5,
        'too_few_sentences': 1,
    }
    assert records[0].options[records[0].answer] == short


def test_distractors_are_complete_sentences_if_there_are_enough(tmp_path):
    write(tmp_path / 'a.csv', [row()])
    records = medec.read(tmp_path).records
    assert {*records[0].options} == {medec.NO_ERROR, SENTENCES[0], SENTENCES[2], SENTENCES[3]}


def test_errors_name_the_fault_and_the_file(tmp_path):
    with pytest.raises(UserError, match='absent: no such folder'):
        medec.read(tmp_path / 'absent')
    with pytest.raises(UserError, match=r'no \*\.csv in this folder'):
        medec.read(tmp_path)
    path = tmp_path / 'notes.csv'
    write(path, [{k: v for k, v in row().items() if k not in ('Sentences', 'Error Flag')}])
    with pytest.raises(UserError, match=r'notes\.csv: column Sentences, Error Flag is missing'):
        medec.read(tmp_path)
    path.write_bytes(b'')
    with pytest.raises(UserError, match='the file has no rows'):
        medec.read(tmp_path)
    path.write_bytes(b'Text ID,\xff\xfe\n')
    with pytest.raises(UserError, match=r'notes\.csv:1: not UTF-8'):
        medec.read(tmp_path)
    write(path, [row('ms-1'), row('ms-1')])
    with pytest.raises(UserError, match=r"notes\.csv:\d+: Text ID 'ms-1' occurs twice"):
        medec.read(tmp_path)
    write(path, [row(**{'Error Flag': 'yes'})])
    with pytest.raises(UserError, match="Error Flag 'yes'"):
        medec.read(tmp_path)
