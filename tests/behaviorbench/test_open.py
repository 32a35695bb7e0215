"""Tests of `open`, which joins all public sets: no leakage, and the same bytes for a seed."""

import collections
import csv
import json
import os
import re
import subprocess
import sys

import pytest

from bsft_jax.behaviorbench import adapters, shortcuts, splits
from bsft_jax.commands import prepare
from bsft_jax.errors import UserError
from bsft_jax.records.record import read_jsonl, write_jsonl
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def prepared(shared, tmp_path_factory):
    """Returns the prepared folder and its card."""
    output = tmp_path_factory.mktemp('open') / 'data'
    return output, prepare.prepare([f'open:{shared / "data"}'], output)


@pytest.fixture(scope='module')
def records(prepared):
    return {
        split: read_jsonl(prepared[0] / f'{split}.jsonl')
        for split in ('train', 'validation', 'test')
    }


def test_the_card_counts_every_category_and_finds_no_leakage(prepared, records):
    _, card = prepared
    notes = card['sources'][0]['notes']
    assert {*notes} >= {'medec', 'mediq', 'aci_bench', 'mts_dialog', 'pubmedqa'}
    assert card['leakage']['pairs'] == 0
    assert card['leakage']['cases'] == notes['clusters'] - notes['left_out_to_even_answers']
    # MEDEC and MediQ share vignettes.
    assert notes['clusters_across_sets'] > 20
    assert card['licenses'] == ['CC-BY-4.0', 'MIT']
    for split, rows in records.items():
        counted = collections.Counter((r.category or 'none', r.behavior) for r in rows)
        assert card['counts'][split] == {
            category: {
                b: counted[category, b] for b in ('proactive', 'reactive') if counted[category, b]
            }
            for category, _ in counted
        }
    assert not shortcuts.leak_warnings(card['shortcuts'])


def test_no_case_is_in_two_splits_and_hardly_any_long_run_of_words(records):
    cases = [{r.case_id for r in rows} for rows in records.values()]
    assert not (cases[0] & cases[1] | cases[0] & cases[2] | cases[1] & cases[2])

    def runs(rows, words=25):
        result = set()
        for record in rows:
            if record.source in ('medec', 'mediq'):
                text = re.findall(r'\w+', splits.case_text(record).lower())
                result |= {tuple(text[i : i + words]) for i in range(len(text) - words)}
        return result

    train, test = runs(records['train']), runs(records['test'])
    assert len(train & test) < 0.001 * len(test)


def test_each_answer_of_pubmedqa_is_equally_frequent(records):
    for split, rows in records.items():
        answers = collections.Counter(r.answer for r in rows if r.source == 'pubmedqa')
        assert len(set(answers.values())) == 1 and len(answers) == 3, split


def test_the_authors_test_cases_are_in_the_test_split(records, shared):
    tested = json.loads(
        (shared / 'data' / 'pubmedqa' / 'test_ground_truth.json').read_text(encoding='utf-8')
    )
    others = {
        r.id.removeprefix('pubmedqa-') for split in ('train', 'validation') for r in records[split]
    }
    assert not others & {*tested}
    for split, rows in records.items():
        for record in rows:
            assert split == 'test' or not record.id.startswith('mts_dialog-TestSet')


def test_the_same_seed_gives_the_same_bytes(records, shared, tmp_path):
    again, _ = adapters.load('open', shared / 'data')
    for split, rows in records.items():
        write_jsonl(tmp_path / split, [r for r in again if r.split == split])
        write_jsonl(tmp_path / 'before', rows)
        assert (tmp_path / split).read_bytes() == (tmp_path / 'before').read_bytes()


def test_records_do_not_depend_on_the_hash_seed_of_the_process(shared):
    code = (
        'import hashlib, sys\n'
        'from bsft_jax.behaviorbench import adapters\n'
        'records, _ = adapters.load("mts_dialog", sys.argv[1])\n'
        'print(hashlib.sha256(repr(records).encode()).hexdigest())\n'
    )
    command = [sys.executable, '-c', code, str(shared / 'data' / 'mts-dialog')]
    digests = {
        subprocess.run(
            command,
            env=os.environ | {'PYTHONHASHSEED': seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ('0', '1', '2')
    }
    assert len(digests) == 1


def test_another_seed_gives_other_splits(records, shared):
    other = {r.id: r.split for r in adapters.load('medec', shared / 'data' / 'medec', seed=1)[0]}
    assert any(other.get(r.id, split) != split for split, rows in records.items() for r in rows)


def test_near_duplicates_planted_in_another_set_share_a_split(shared, tmp_path):
    """Plants vignettes of MEDEC, with one sentence changed, as cases of MediQ."""
    for name in ('medec', 'mediq'):
        (tmp_path / name).mkdir()
    source = shared / 'data' / 'medec' / 'validation.csv'
    (tmp_path / 'medec' / 'validation.csv').write_bytes(source.read_bytes())
    with source.open(encoding='utf-8-sig', newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['Error Flag'] == '1'][:60]
    with (tmp_path / 'mediq' / 'planted.jsonl').open('w', encoding='utf-8') as file:
        for i, row in enumerate(rows):
            first, *rest = re.split(r'(?<=\.) ', row['Text'].strip())
            facts = [
                f'{k}. {fact}' for k, fact in enumerate(('Quite another beginning.', *rest), 1)
            ]
            planted = {
                'id': i,
                'facts': facts,
                'context': ['Quite another beginning.', *rest],
                'answer_idx': 'A',
                'question': 'What is the most likely diagnosis?',
                'options': {'A': first, 'B': 'Measles'},
                'answer': first,
            }
            file.write(json.dumps(planted) + '\n')
    records, notes = adapters.load('open', tmp_path)
    assert notes['clusters_across_sets'] >= 50 and splits.leakage(records)['pairs'] == 0
    cases = collections.defaultdict(set)
    for record in records:
        cases[record.case_id].add((record.source, record.split))
    shared_cases = [
        members
        for members in cases.values()
        if {source for source, _ in members} == {'medec', 'mediq'}
    ]
    assert len(shared_cases) >= 50
    assert all(len({split for _, split in members}) == 1 for members in shared_cases)


def test_leakage_counts_a_planted_duplicate(records):
    together = [*records['train'], *(r for r in records['test'])]
    assert splits.leakage(together)['pairs'] == 0
    broken = [
        r if i else type(r)(**(vars(r) | {'split': 'test', 'case_id': 'planted'}))
        for i, r in enumerate(together)
    ]
    report = splits.leakage([*broken, together[0]])
    assert report['pairs'] >= 1 and ['planted', together[0].case_id] in [
        sorted(e, reverse=True) for e in report['examples']
    ]


def test_a_folder_without_any_set_is_refused(tmp_path):
    with pytest.raises(UserError, match='open:.*absent: no such folder'):
        adapters.load('open', tmp_path / 'absent')
    (tmp_path / 'other').mkdir()
    with pytest.raises(UserError, match='holds none of the sets'):
        adapters.load('open', tmp_path)
