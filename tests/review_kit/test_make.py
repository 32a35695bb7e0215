"""Tests the pages of a review: what is in them, what is not, and what is refused."""

import base64
import collections
import dataclasses
import hashlib
import html
import json
import pathlib
import re

import pytest

from bsft_jax import files
from bsft_jax.data import eval_records
from bsft_jax.errors import UserError
from bsft_jax.records import taxonomy
from bsft_jax.review_kit import wording
from bsft_jax.review_kit.make import MakeOptions, make
from bsft_jax.review_kit.sampling import Plan
from tests.review_kit import evaluations
from tests.review_kit.conftest import PLAN

HOSTILE = '<script>alert(1)</script></script><!--<script> &amp; \u2028 "quoted" \'too\' ${x} $style'
SMALL = Plan(items=4, raters=1, overlap=0, repeats=1, checks=1, seed=0)


def content_of(path: pathlib.Path) -> dict:
    """Returns the JSON that a page shows."""
    found = re.findall(
        r'<script type="application/json" id="study">(.*?)</script>', path.read_text()
    )
    assert len(found) == 1
    return json.loads(found[0])


def record(i: int, **fields) -> dict:
    return {
        'id': f'r{i}',
        'case_id': f'c{i}',
        'split': 'test',
        'category': 'omission_detection',
        'messages': [{'role': 'user', 'name': 'Dr. Ito', 'content': f'Case {i}. What now?'}],
        'options': [f'Wait {i}', f'Call the ward {i}'],
        'answer': 1,
        **fields,
    }


def own_review(folder, rows, answers=None, plan=SMALL):
    """Makes a review of own records, and returns its page's content and the key."""
    path = folder / 'data/test.jsonl'
    records = evaluations.write_records(path, rows)
    evals = []
    for number in range(2):
        evaluation = evaluations.write_evaluation(
            folder / f'run{number}/eval/x', records, lambda i, r, n=number: n, f'jsonl:{path}'
        )
        if answers:
            files.write_lines(evaluation / 'answers.jsonl', answers[number])
        evals.append(str(evaluation))
    key = make(MakeOptions(tuple(evals), str(folder / 'out/review.html'), plan))
    return content_of(folder / 'out/review-1.html'), key


def test_pages_are_a_function_of_inputs_and_seed(evals, study, tmp_path):
    for name, plan in (('same', PLAN), ('other', dataclasses.replace(PLAN, seed=1))):
        make(MakeOptions(tuple(evals[:2]), str(tmp_path / name / 'review.html'), plan))
    for path in sorted(study.iterdir()):
        assert (tmp_path / 'same' / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / 'other' / path.name).read_bytes() != path.read_bytes()


def test_pages_hold_no_name_path_id_or_category(evals, study, key):
    known = {'secret', 'qwen', 'llama', 'runs', 'eval', 'test-auto', 'synthetic', 'behavior'}
    known |= {part for folder in evals for part in pathlib.Path(folder).parts if len(part) > 1}
    known |= {entry['record'] for entry in key['comparisons']}
    known |= {entry['case'] for entry in key['comparisons']}
    known |= {*taxonomy.CATEGORIES, *taxonomy.GROUPS, 'expected', 'swapped', 'repeat"'}
    for number in (1, 2, 3):
        text = (study / f'review-{number}.html').read_text().lower()
        assert not [name for name in known if name.lower() in text]


def test_pages_ask_for_nothing_outside(study):
    for path in study.glob('*.html'):
        text = path.read_text()
        assert not re.findall(r'https?:|src=|@import|url\(|fetch|XMLHttp|WebSocket|import\(', text)
        assert re.findall(r'href="([^"]*)"', text) == ['data:,']
        policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
        script = re.search(r'<script>(.*?)</script>\n</body>', text, re.DOTALL)[1]
        style = re.search(r'<style>(.*?)</style>', text, re.DOTALL)[1]
        for kind, source in (('script', script), ('style', style)):
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none';")


def test_the_key_says_whose_answer_is_shown_where(evals, study, key):
    records = {r.id: r for r in eval_records.load_scorable(evaluations.SOURCE, 'test')}
    chosen = {
        name: {row['id']: row['prediction'] for row in files.read_lines(folder)}
        for name, folder in zip(
            'AB', (pathlib.Path(f) / 'predictions.jsonl' for f in evals), strict=False
        )
    }
    for entry in key['pages']:
        content = content_of(study / entry['file'])
        assert content['study'] == key['study'] and content['page'] == entry['page']
        assert len(content['screens']) == len(entry['screens'])
        for shown, screen in zip(content['screens'], entry['screens'], strict=True):
            assert shown['id'] == screen['screen']
            if screen['kind'] == 'check':
                expected = wording.check_text(screen['expected'])
                assert shown['answers'].count(expected) == 1
                record = records[screen['record']]
            else:
                comparison = key['comparisons'][screen['comparison']]
                record = records[comparison['record']]
                texts = [record.options[chosen[name][record.id]] for name in screen['shown']]
                assert shown['answers'] == texts and texts[0] != texts[1]
            assert [turn['text'] for turn in shown['turns']] == [m.content for m in record.messages]


def test_items_are_spread_over_categories_cases_and_raters(key):
    counts = collections.Counter(entry['category'] for entry in key['comparisons'])
    assert set(counts) == set(taxonomy.CATEGORIES) and set(counts.values()) == {3}
    assert len({entry['record'] for entry in key['comparisons']}) == 39
    seen = [
        {s['comparison'] for s in entry['screens'] if s['kind'] == 'item'} for entry in key['pages']
    ]
    assert seen[0] & seen[1] & seen[2] == set(range(13))
    assert len(seen[0] | seen[1] | seen[2]) == 39
    assert [len(own) for own in seen] == [22, 22, 21]
    # Shared comparisons are of as many categories as there are.
    assert len({key['comparisons'][i]['category'] for i in range(13)}) == 13


def test_each_system_is_first_in_half_of_the_screens(key):
    for entry in key['pages']:
        first = [s['shown'][0] for s in entry['screens'] if s['kind'] == 'item']
        assert abs(first.count('A') - first.count('B')) <= 1


def test_repeats_come_late_with_answers_exchanged(key):
    for entry in key['pages']:
        screens = [s for s in entry['screens'] if s['kind'] != 'check']
        kinds = collections.Counter(s['kind'] for s in entry['screens'])
        assert kinds['repeat'] == 3 and kinds['check'] == 2
        assert entry['screens'][0]['kind'] == 'item'
        place = {
            s['comparison']: (i, s['shown']) for i, s in enumerate(screens) if s['kind'] == 'item'
        }
        for i, screen in enumerate(screens):
            if screen['kind'] == 'repeat':
                before, shown = place[screen['comparison']]
                assert screen['shown'] == shown[::-1] and i - before > len(place) // 3


def test_checks_lend_cases_that_are_not_reviewed_where_there_are_any(tmp_path):
    _, key = own_review(tmp_path, [record(i) for i in range(5)])
    used = {entry['record'] for entry in key['comparisons']}
    (check,) = (s for s in key['pages'][0]['screens'] if s['kind'] == 'check')
    assert len(used) == 4 and check['record'] not in used


def test_three_systems_are_compared_in_pairs(evals, tmp_path):
    key = make(MakeOptions(tuple(evals), str(tmp_path / 'review.html'), PLAN))
    pairs = collections.Counter(tuple(entry['systems']) for entry in key['comparisons'])
    assert pairs == {('A', 'B'): 13, ('A', 'C'): 13, ('B', 'C'): 13}


def test_hostile_text_is_shown_and_not_obeyed(tmp_path):
    rows = [
        record(
            i,
            category='',
            group=HOSTILE,
            messages=[{'role': 'user', 'name': HOSTILE, 'content': f'{HOSTILE} {i}'}],
            options=[f'{HOSTILE} {i}', 'Wait'],
        )
        for i in range(4)
    ]
    content, key = own_review(tmp_path, rows)
    text = (tmp_path / 'out/review-1.html').read_text()
    assert text.count('<script') == text.count('</script>') == 2 and '<!--' not in text
    assert 'alert(1)' in text
    (turn,) = content['screens'][0]['turns']
    assert turn['text'].startswith(HOSTILE) and turn['speaker'] == f'Question ({HOSTILE})'
    assert key['comparisons'][0]['category'] == HOSTILE


def test_generated_answers_are_compared_in_words(tmp_path):
    texts = {
        'r0': ('Answer: A. Because.', 'Wait 0. Because.'),
        'r1': (' Answer: Call the ward. Now.', 'Call the ward. Now.'),
        'r2': ('I would wait.', 'I would wait.'),
        'r3': ('Answer: C. Odd.', 'C. Odd.'),
        'r4': ('', ''),
    }
    first = [{'id': id, 'text': text} for id, (text, _) in texts.items()]
    first.append({'id': 'r5', 'error': 'too long'})
    second = [{'id': f'r{i}', 'text': f'Something else {i}'} for i in range(6)]
    plan = dataclasses.replace(SMALL, items=5)
    content, key = own_review(tmp_path, [record(i) for i in range(6)], (first, second), plan)
    assert key['systems']['A']['answers'] == 'generated' and key['left_out'] == 1
    shown = [(s, c) for s, c in zip(key['pages'][0]['screens'], content['screens'], strict=True)]
    for screen, page in shown:
        if screen['kind'] == 'item':
            id = key['comparisons'][screen['comparison']]['record']
            assert page['answers'][screen['shown'].index('A')] == texts[id][1]


def test_answers_that_name_a_model_are_reported(tmp_path, capsys):
    rows = [record(i, options=['As Qwen, I wait', 'Call']) for i in range(4)]
    own_review(tmp_path, rows)
    assert 'answers contain qwen' in capsys.readouterr().err


def test_records_answered_alike_are_not_reviewed(evals, tmp_path):
    plan = dataclasses.replace(PLAN, items=67)
    key = make(MakeOptions(tuple(evals[:2]), str(tmp_path / 'review.html'), plan))
    (pair,) = key['pairs']
    assert pair == {'systems': ['A', 'B'], 'records': 84, 'same_answer': 17}
    with pytest.raises(UserError, match=r'--items=68: 67 of 84 records .*; at most 67'):
        plan = dataclasses.replace(PLAN, items=68)
        make(MakeOptions(tuple(evals[:2]), str(tmp_path / 'more/review.html'), plan))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'overlap': 40}, '--overlap=40: is more than --items=39'),
        ({'repeats': 8}, '--repeats=8: is more than a third of the 21 items of a rater; at most 7'),
        ({'raters': 40, 'overlap': 0, 'repeats': 0}, '--items=39: leaves a rater without items'),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(evals, tmp_path, changes, message):
    plan = dataclasses.replace(PLAN, **changes)
    with pytest.raises(UserError, match=re.escape(message)):
        make(MakeOptions(tuple(evals), str(tmp_path / 'x/review.html'), plan))
    assert not (tmp_path / 'x').exists()


def test_what_does_not_go_together_is_refused(evals, study, tmp_path):
    def refused(message, folders=evals[:2], output=tmp_path / 'x/review.html', data=''):
        with pytest.raises(UserError, match=message):
            make(MakeOptions(tuple(folders), str(output), PLAN, data))
        assert not (tmp_path / 'x').exists()

    refused('names 1 evaluations', evals[:1])
    refused('is named twice', [evals[0], evals[0]])
    refused('is not the folder of an evaluation', [evals[0], str(tmp_path)])
    refused('KEY.json: exists, and whoever has its pages needs it', output=study / 'review.html')
    refused('does not end in .html', output=tmp_path / 'x/review')
    refused("is not in the split 'test' of synthetic:40:7", data='synthetic:40:7')
    records = eval_records.load_scorable(evaluations.SOURCE, 'test')
    one = evaluations.write_evaluation(tmp_path / 'run/eval/x', records, evaluations.third)
    files.write_lines(one / 'answers.jsonl', [{'id': r.id, 'text': 'x'} for r in records])
    refused('has answers.jsonl, so their answers tell them apart', [evals[0], str(one)])
    (one / 'answers.jsonl').write_text('{"id": "a"}\n')
    refused('answers.jsonl: is not what generate prints', [evals[0], str(one)])
    (one / 'answers.jsonl').write_text('{"id": "a", "text": 3}\n')
    refused('has an answer that is no text', [evals[0], str(one)])
    (one / 'answers.jsonl').unlink()
    rows = files.read_lines(one / 'predictions.jsonl')
    files.write_lines(one / 'predictions.jsonl', [*rows, rows[0]])
    refused('has rows without an id of their own', [evals[0], str(one)])


def test_records_of_another_wording_are_refused(tmp_path):
    rows = [record(i) for i in range(4)]
    own_review(tmp_path, rows)
    rows[2]['options'][0] += '!'
    evaluations.write_records(tmp_path / 'data/test.jsonl', rows)
    evals = tuple(str(tmp_path / f'run{i}/eval/x') for i in range(2))
    with pytest.raises(UserError, match="record 'r2' is not in the split 'test' of jsonl:"):
        make(MakeOptions(evals, str(tmp_path / 'again/review.html'), SMALL))
