"""All public sets in one: without leakage, the same bytes for a seed, one command."""

import collections
import csv
import json
import re

import pytest

from bsft_jax import prepare
from bsft_jax.behaviorbench import adapters, shortcuts, splits
from bsft_jax.behaviorbench.records import read_jsonl, write_jsonl
from bsft_jax.errors import UserError


@pytest.fixture(scope='module')
def made(shared, tmp_path_factory):
    output = tmp_path_factory.mktemp('open') / 'data'
    return output, prepare.prepare([f'open:{shared / "data"}'], output)


@pytest.fixture(scope='module')
def records(made):
    return {split: read_jsonl(made[0] / f'{split}.jsonl') for split in ('train', 'validation', 'test')}


def test_the_card_counts_every_category_and_names_no_leak(made, records):
    _, card = made
    notes = card['sources'][0]['notes']
    assert {*notes} >= {'medec', 'mediq', 'aci_bench', 'mts_dialog', 'pubmedqa'}
    assert card['leakage']['pairs'] == 0
    assert card['leakage']['cases'] == notes['clusters'] - notes['left_out_to_even_answers']
    assert notes['clusters_across_sets'] > 20  # MEDEC and MediQ share vignettes
    assert card['licenses'] == ['CC-BY-4.0', 'MIT']
    for split, rows in records.items():
        counted = collections.Counter((r.category or 'none', r.behavior) for r in rows)
        assert card['counts'][split] == {
            category: {b: counted[category, b] for b in ('proactive', 'reactive') if counted[category, b]}
            for category, _ in counted
        }
    assert not shortcuts.over_limit(card['shortcuts'])


def test_no_case_and_no_sentence_run_is_in_two_splits(records):
    cases = [{r.case_id for r in rows} for rows in records.values()]
    assert not (cases[0] & cases[1] | cases[0] & cases[2] | cases[1] & cases[2])

    def runs(rows, words=25):
        found = set()
        for record in rows:
            if record.source in ('medec', 'mediq'):
                text = re.findall(r'\w+', splits.told(record).lower())
                found |= {tuple(text[i : i + words]) for i in range(len(text) - words)}
        return found

    train, test = runs(records['train']), runs(records['test'])
    assert len(train & test) < 0.001 * len(test)


def test_answers_are_as_many_of_each(records):
    for split, rows in records.items():
        answers = collections.Counter(r.answer for r in rows if r.source == 'pubmedqa')
        assert len(set(answers.values())) == 1 and len(answers) == 3, split


def test_what_the_authors_test_on_is_tested_on(records, shared):
    tested = json.loads((shared / 'data' / 'pubmedqa' / 'test_ground_truth.json').read_text(encoding='utf-8'))
    others = {r.id.removeprefix('pubmedqa-') for split in ('train', 'validation') for r in records[split]}
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


def test_another_seed_gives_other_splits(records, shared):
    other = {r.id: r.split for r in adapters.load('medec', shared / 'data' / 'medec', seed=1)[0]}
    assert any(other.get(r.id, split) != split for split, rows in records.items() for r in rows)


def test_a_near_duplicate_that_is_planted_in_another_set_is_in_one_split(shared, tmp_path):
    """A vignette of MEDEC, one sentence of it changed, as a case of MediQ."""
    for name in ('medec', 'mediq'):
        (tmp_path / name).mkdir()
    source = shared / 'data' / 'medec' / 'validation.csv'
    (tmp_path / 'medec' / 'validation.csv').write_bytes(source.read_bytes())
    with source.open(encoding='utf-8-sig', newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['Error Flag'] == '1'][:60]
    with (tmp_path / 'mediq' / 'planted.jsonl').open('w', encoding='utf-8') as file:
        for i, row in enumerate(rows):
            first, *rest = re.split(r'(?<=\.) ', row['Text'].strip())
            facts = [f'{k}. {fact}' for k, fact in enumerate(('Quite another beginning.', *rest), 1)]
            planted = {
                'id': i, 'facts': facts, 'context': ['Quite another beginning.', *rest], 'answer_idx': 'A',
                'question': 'What is the most likely diagnosis?', 'options': {'A': first, 'B': 'Measles'},
                'answer': first,
            }  # fmt: skip
            file.write(json.dumps(planted) + '\n')
    records, notes = adapters.load('open', tmp_path)
    assert notes['clusters_across_sets'] >= 50 and splits.leakage(records)['pairs'] == 0
    cases = collections.defaultdict(set)
    for record in records:
        cases[record.case_id].add((record.source, record.split))
    both = [found for found in cases.values() if {source for source, _ in found} == {'medec', 'mediq'}]
    assert len(both) >= 50 and all(len({split for _, split in found}) == 1 for found in both)


def test_a_leak_would_be_counted(records):
    moved = [*records['train'], *(r for r in records['test'])]
    assert splits.leakage(moved)['pairs'] == 0
    broken = [
        r if i else type(r)(**(vars(r) | {'split': 'test', 'case_id': 'planted'}))
        for i, r in enumerate(moved)
    ]
    found = splits.leakage([*broken, moved[0]])
    assert found['pairs'] >= 1 and ['planted', moved[0].case_id] in [
        sorted(e, reverse=True) for e in found['examples']
    ]


def test_folders_that_hold_no_set(tmp_path):
    with pytest.raises(UserError, match='open:.*absent: no such folder'):
        adapters.load('open', tmp_path / 'absent')
    (tmp_path / 'other').mkdir()
    with pytest.raises(UserError, match='holds none of the sets'):
        adapters.load('open', tmp_path)
