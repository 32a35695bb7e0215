"""Compares the records of public sets with their raw files, which are read here independently.

MEDEC has a file of its own, `test_medec.py`.
"""

import collections
import csv
import itertools
import json
import re

import pytest

from bsft_jax.behaviorbench import adapters, splits
from bsft_jax.behaviorbench.adapters import aci_bench, mediq, mts_dialog, pubmedqa
from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.commands import prepare
from bsft_jax.errors import UserError
from bsft_jax.records.record import record_from_dict, record_to_dict

FOLDERS = {
    'mediq': ('mediq', 'CC-BY-4.0'),
    'aci_bench': ('aci-bench', 'CC-BY-4.0'),
    'mts_dialog': ('mts-dialog', 'CC-BY-4.0'),
    'pubmedqa': ('pubmedqa', 'MIT'),
}


@pytest.fixture(scope='module')
def loaded(shared):
    """Returns (records, notes) of each set."""
    return {
        name: adapters.load(name, shared / 'data' / folder) for name, (folder, _) in FOLDERS.items()
    }


def csv_rows(folder):
    """Yields (stem of the file, row) of all CSV files of a folder."""
    for path in sorted(folder.glob('*.csv')):
        with path.open(encoding='utf-8-sig', newline='') as file:
            for row in csv.DictReader(file):
                yield path.stem, row


def case_text(record):
    """Returns a record's message without its last paragraph, the request."""
    return record.messages[0].content.rpartition('\n\n')[0]


def twins(records):
    """Returns the pairs of records as (proactive, reactive)."""
    pairs = collections.defaultdict(list)
    for record in records:
        if record.pair_id:
            pairs[record.pair_id].append(record)
    return [sorted(pair, key=lambda r: r.behavior) for pair in pairs.values()]


@pytest.mark.parametrize('name', FOLDERS)
def test_records_are_valid_and_nothing_leaks(loaded, name):
    records, _ = loaded[name]
    assert len({record.id for record in records}) == len(records)
    split_of = {}
    for record in records:
        assert (record.source, record.license) == (name, FOLDERS[name][1])
        assert record.behavior == record.option_behaviors[record.answer]
        assert split_of.setdefault(record.case_id, record.split) == record.split
        assert record_from_dict(record_to_dict(record)) == record
    assert splits.leakage(records)['pairs'] == 0


@pytest.mark.parametrize('name', ['mediq', 'aci_bench', 'mts_dialog'])
def test_twins_have_one_request_and_the_same_options(loaded, name):
    pairs = twins(loaded[name][0])
    for proactive, reactive in pairs:
        assert (proactive.behavior, reactive.behavior) == ('proactive', 'reactive')
        assert proactive.options == reactive.options and proactive.split == reactive.split
        assert proactive.option_behaviors == reactive.option_behaviors
        requests = {r.messages[0].content.rpartition('\n\n')[2] for r in (proactive, reactive)}
        assert len(requests) == 1
        assert name == 'mediq' or requests < {*REVIEW.seen}
    positions = collections.Counter(proactive.answer for proactive, _ in pairs)
    assert min(positions[i] for i in range(4)) > 0.15 * len(pairs)


def test_mediq_withholds_one_fact_and_asks_for_it(loaded, shared):
    rows = {}
    with (shared / 'data' / 'mediq' / 'all_dev_good.jsonl').open(encoding='utf-8') as file:
        for row in map(json.loads, file):
            rows[f'mediq-{row["id"]}'] = row
    pairs = twins(loaded['mediq'][0])
    assert len(pairs) == 1250
    for withheld, complete in pairs:
        row = rows[complete.pair_id]
        facts = [re.sub(r'^\d+\. *', '', fact).strip() for fact in row['facts']]
        confirmable = [
            o.removeprefix('First confirm: ')
            for o in complete.options
            if o.startswith('First confirm: ')
        ]
        missing = withheld.options[withheld.answer].removeprefix('First confirm: ')
        assert case_text(complete) == ' '.join(dict.fromkeys(facts))
        assert ' '.join(case_text(withheld).split()) == ' '.join(
            ' '.join(f for f in dict.fromkeys(facts) if f != missing).split()
        )
        assert len(confirmable) == 3 and {*confirmable} <= {*facts}
        assert facts[0] not in confirmable
        assert complete.options[complete.answer] == f'Answer now: {" ".join(row["answer"].split())}'
    questions = [r for r in loaded['mediq'][0] if not r.pair_id]
    for record in questions:
        row = rows[record.id.removesuffix('-question')]
        assert record.options[record.answer] == ' '.join(row['answer'].split())
    assert {r.category for r in questions} == {'treatment_selection', 'differential_diagnosis'}


def test_aci_bench_leaves_out_one_sentence_that_was_said(loaded, shared):
    notes = {
        f'aci_bench-{row["encounter_id"]}': row
        for _, row in csv_rows(shared / 'data' / 'aci-bench')
    }
    pairs = twins(loaded['aci_bench'][0])
    assert len(pairs) > 250
    for omission, complete in pairs:
        raw = notes['-'.join(complete.pair_id.split('-')[:2])]
        visit, section = case_text(complete).split('\n\n')
        heading, _, shown = section.partition('\n')
        missing = omission.options[omission.answer].removeprefix('The note leaves out: ')
        assert case_text(omission) == case_text(complete).replace(
            f'{heading}\n{shown}', f'{heading}\n{without(shown, missing)}'
        )
        for option in complete.options:
            sentence = option.removeprefix('The note leaves out: ')
            assert sentence == aci_bench.COMPLETE or (
                sentence in shown and sentence in ' '.join(raw['note'].split())
            )
        assert missing not in case_text(omission)
        spoken = ' '.join(raw['dialogue'].split()).lower()
        for turn in visit.split('\n'):
            assert turn.partition(': ')[2].lower() in re.sub(r'\[\w+\] ', '', spoken)


def without(section, sentence):
    before, _, after = section.partition(sentence)
    return f'{before.strip()} {after.strip()}'.strip()


def test_aci_bench_asks_reactive_questions_about_headings(loaded):
    questions = [r for r in loaded['aci_bench'][0] if not r.pair_id]
    assert len(questions) > 80
    assert {r.category for r in questions} <= {
        'differential_diagnosis',
        'treatment_selection',
        'laboratory_interpretation',
        'image_reasoning',
    }
    assert all(len(r.options) == 4 and r.behavior == 'reactive' for r in questions)


def test_mts_dialog_headings_are_drawn_as_often_as_they_are_correct(loaded, shared):
    rows = {
        f'mts_dialog-{stem}-{row["ID"]}': row
        for stem, row in csv_rows(shared / 'data' / 'mts-dialog')
    }
    questions = [r for r in loaded['mts_dialog'][0] if r.id.endswith('-heading')]
    assert len(questions) == len(rows) == 1501
    offered, correct = collections.Counter(), collections.Counter()
    for record in questions:
        row = rows[record.id.removesuffix('-heading')]
        assert record.options[record.answer] == mts_dialog.HEADINGS[row['section_header']]
        offered.update(record.options)
        correct[record.options[record.answer]] += 1
    for heading in (
        'Family and social history',
        'History of present illness',
        'Allergies',
        'Medications',
    ):
        # 0.25 is chance.
        assert 0.15 < correct[heading] / offered[heading] < 0.5, heading


def test_mts_dialog_puts_another_drug_into_the_note(loaded):
    pairs = twins(loaded['mts_dialog'][0])
    assert len(pairs) > 100
    said_count, inserted_count = collections.Counter(), collections.Counter()
    for changed, kept in pairs:
        said, wrong = re.fullmatch(
            r'(\w+) was said, the note has (\w+)\.', changed.options[changed.answer]
        ).groups()
        (visit, before), (same, after) = (case_text(r).split('\n\n') for r in (kept, changed))
        assert visit == same and re.search(rf'\b{said}\b', visit, re.IGNORECASE)
        assert not re.search(rf'\b{wrong}\b', f'{visit} {before}', re.IGNORECASE)
        assert re.sub(rf'\b{said}\b', wrong, before, flags=re.IGNORECASE).lower() == after.lower()
        said_count[said.lower()] += 1
        inserted_count[wrong.lower()] += 1
    frequent = [name for name, _ in said_count.most_common(5)]
    inserted = sum(inserted_count[name] for name in frequent)
    assert inserted > 0.4 * sum(said_count[name] for name in frequent)


def test_pubmedqa_options_have_a_fixed_order_and_its_test_set_is_tested(loaded, shared):
    folder = shared / 'data' / 'pubmedqa'
    questions = json.loads((folder / 'ori_pqal.json').read_text(encoding='utf-8'))
    tested = json.loads((folder / 'test_ground_truth.json').read_text(encoding='utf-8'))
    records = loaded['pubmedqa'][0]
    assert len(records) == 1000
    for record in records:
        pmid = record.id.removeprefix('pubmedqa-')
        assert record.options == ('Yes', 'No', 'Maybe')
        assert record.options[record.answer].lower() == questions[pmid]['final_decision']
        assert record.messages[0].content.endswith(f'\n\n{questions[pmid]["QUESTION"]}')
        assert all(context in case_text(record) for context in questions[pmid]['CONTEXTS'])
        assert pmid not in tested or record.split == 'test'


@pytest.mark.parametrize('name, folder', [('aci_bench', 'aci-bench'), ('mts_dialog', 'mts-dialog')])
def test_cases_that_the_authors_keep_for_testing_are_in_the_test_split(
    loaded, shared, name, folder
):
    tested = set()
    for stem, row in csv_rows(shared / 'data' / folder):
        if 'test' in stem.lower():
            tested.add(
                f'{name}-{row["encounter_id"]}'
                if name == 'aci_bench'
                else f'{name}-{stem}-{row["ID"]}'
            )
    records = [r for r in loaded[name][0] if any(r.id.startswith(f'{case}-') for case in tested)]
    assert len(records) > 200 and {r.split for r in records} == {'test'}


HOSTILE = {
    'mediq': (
        'x.jsonl',
        '{"id": 1, "facts": "none"}',
        "x.jsonl:1: field 'facts' is missing or not a list",
    ),
    'aci_bench': ('x.csv', 'encounter_id,note\n1,2', 'x.csv: column dialogue is missing'),
    'mts_dialog': (
        'x.csv',
        'ID,section_header,section_text,dialogue\n1,NONE,a,b',
        "x.csv:2: unknown section_header 'NONE'",
    ),
    'pubmedqa': (
        'ori_pqal.json',
        '{"1": {"QUESTION": "a?", "CONTEXTS": [], "LONG_ANSWER": "", "final_decision": "often"}}',
        "ori_pqal.json: 1: final_decision 'often' is not one of yes, no, maybe",
    ),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_errors_name_the_fault_and_the_file(tmp_path, name):
    with pytest.raises(UserError, match='no such folder'):
        adapters.load(name, tmp_path / 'absent')
    with pytest.raises(UserError, match='in this folder'):
        adapters.load(name, tmp_path)
    file, text, message = HOSTILE[name]
    (tmp_path / file).write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match=re.escape(message)):
        adapters.load(name, tmp_path)


@pytest.mark.parametrize(
    'read, file, row',
    [
        (
            mediq.read,
            'a.jsonl',
            {
                'id': 1,
                'facts': [],
                'context': [],
                'question': 'x',
                'options': {'A': 'a'},
                'answer_idx': 'A',
            },
        ),
        (pubmedqa.read, 'ori_pqal.json', []),
    ],
)
def test_repeated_ids_and_files_without_questions_are_refused(tmp_path, read, file, row):
    lines = itertools.repeat(json.dumps(row), 2)
    (tmp_path / file).write_text(
        '\n'.join(lines) if file.endswith('l') else json.dumps(row), encoding='utf-8'
    )
    with pytest.raises(UserError, match='occurs twice|must be an object'):
        read(tmp_path)


def test_a_text_with_a_lone_surrogate_is_refused_in_one_clear_line(tmp_path):
    row = {
        'id': 1,
        'facts': ['1. A man of 50.', '2. Fever \ud800.', '3. Cough.', '4. Gout.'],
        'context': ['A man of 50.'],
        'question': 'What is the diagnosis?',
        'options': {'A': 'x', 'B': 'y'},
        'answer_idx': 'A',
    }
    (tmp_path / 'mediq').mkdir()
    (tmp_path / 'mediq' / 'a.jsonl').write_text(json.dumps(row) + '\n')
    with pytest.raises(UserError, match=r"record 'mediq-1-\w+': .* holds the character U\+D800"):
        prepare.prepare([f'mediq:{tmp_path}/mediq'], tmp_path / 'set')
    assert [path.name for path in tmp_path.iterdir()] == ['mediq']
