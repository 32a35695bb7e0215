"""Tests what is made of the raters' files, with simulated raters of known preferences."""

import copy
import json
import pathlib

import numpy as np
import pytest

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.review_kit import wording
from bsft_jax.review_kit.analyse import analyse, format_analysis
from bsft_jax.review_kit.make import MakeOptions, make
from bsft_jax.review_kit.ratings import checksum
from bsft_jax.review_kit.sampling import Plan
from tests.review_kit import evaluations, raters

HOSTILE = '<script>alert(1)</script>'


def own_study(folder, records=90, systems=2, plan=None, **fields):
    """Makes a review of records that are a case each, and returns its folder and key."""
    rows = [
        {
            'id': f'r{i}',
            'case_id': f'c{i}',
            'split': 'test',
            'category': ('omission_detection', 'follow_up_planning')[i % 2],
            'messages': [{'role': 'user', 'content': f'Case {i}. What now?'}],
            'options': ['Wait', 'Call the ward now', 'Ask'],
            'answer': 1,
            **fields,
        }
        for i in range(records)
    ]
    path = folder / 'data/test.jsonl'
    read = evaluations.write_records(path, rows)
    evals = tuple(
        str(
            evaluations.write_evaluation(
                folder / f'run{n}/eval/x', read, lambda i, r, n=n: n, f'jsonl:{path}'
            )
        )
        for n in range(systems)
    )
    plan = plan or Plan(items=60, raters=3, overlap=20, repeats=3, checks=2, seed=0)
    key = make(MakeOptions(evals, str(folder / 'out/review.html'), plan))
    return folder / 'out', key


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    """Returns the folder and the key of a study of 60 comparisons, each of its own case."""
    return own_study(tmp_path_factory.mktemp('own'))


def analysed(folder, key, judge, output, seed=0, change=None):
    """Returns the analysis of simulated raters, whose files `change` alters before that."""
    paths = []
    for rater in range(1, key['raters'] + 1):
        file = raters.rater_file(key, rater, judge, seed)
        if change:
            change(file)
            file['checksum'] = checksum(file)
        path = output / f'rater-{rater}.json'
        output.mkdir(exist_ok=True)
        path.write_text(json.dumps(file))
        paths.append(str(path))
    return analyse([str(folder / 'KEY.json'), *paths], str(output / 'results'))


def test_a_planted_win_rate_lies_in_the_intervals(own, tmp_path):
    within = []
    for seed in range(6):
        found = analysed(*own, raters.planted(0.75, ties=0.2), tmp_path / 'x', seed)
        (rates,) = found['win_rates']
        # Ties, and what is not safe, count half.
        for name, rate in (('ties_half', 0.8 * 0.75 + 0.1), ('ties_left_out', 0.75)):
            for interval in ('wilson', 'bootstrap'):
                low, high = rates[name][interval]
                within.append(low < rate < high)
                assert 0.1 < high - low < 0.35
    # They are intervals of 95 %.
    assert sum(within) >= 0.85 * len(within)
    assert rates['ties_half']['cases'] == rates['ties_half']['items'] == 60
    assert sum(rates['judgements'].values()) == found['judgements'] == 20 * 3 + 40
    assert found['warnings'] == []
    assert 'Raters preferred A to B in' in format_analysis(found)
    assert files.read_json(tmp_path / 'x/results/review.json') == found


def test_comparisons_count_once_whoever_saw_them(own, tmp_path):
    """Prefers A in the comparisons that all raters see and B in the others."""
    folder, key = own
    found = analysed(
        folder, key, lambda rng, i, entry: 'A' if i < key['overlap'] else 'B', tmp_path / 'x'
    )
    assert found['win_rates'][0]['ties_half']['value'] == pytest.approx(20 / 60)


def test_position_and_length_effects_are_found(own, tmp_path):
    def first_shown(file):
        for rating in file['ratings']:
            if rating['preference'] in ('first', 'second'):
                rating['preference'] = 'first'

    found = analysed(*own, raters.planted(0.5), tmp_path / 'x', change=first_shown)
    assert found['position']['value'] == 1.0 and found['position']['wilson'][0] > 0.9
    # B's answer has four words, A's one.
    found = analysed(*own, lambda rng, i, entry: 'B', tmp_path / 'y')
    assert found['length']['value'] == 1.0 and found['length']['words'] == {'A': 1.0, 'B': 4.0}
    assert abs(found['position']['value'] - 0.5) < 0.15


def test_three_systems_are_ordered(tmp_path):
    folder, key = own_study(tmp_path, systems=3)
    found = analysed(folder, key, raters.planted(0.85), tmp_path / 'x')
    order = found['bradley_terry']
    a, b, c = (order[name]['strength'] for name in 'ABC')
    assert a > b > c and order['A']['preferred_to']['C'] > 0.8
    low, high = order['A']['interval']
    assert low < a < high
    always = analysed(folder, key, raters.planted(1.0), tmp_path / 'y')['bradley_terry']
    assert np.isfinite([entry['strength'] for entry in always.values()]).all()


def test_raters_agree_with_one_another_and_with_themselves(own, tmp_path):
    def alike(rng, comparison, entry):
        return (*entry['systems'], 'tie', 'neither')[comparison % 4]

    def same_scales(file):
        for rating in file['ratings']:
            for answer in rating['answers']:
                answer['correctness'] = 4

    found = analysed(*own, alike, tmp_path / 'x', change=same_scales)
    preference = found['agreement']['preference']
    assert preference['units'] == 20 and preference['alpha'] == preference['ac'] == 1
    assert preference['prevalence'] == [0.25] * 4
    assert found['agreement']['correctness']['alpha'] is None
    assert found['agreement']['correctness']['ac'] == 1
    assert abs(found['agreement']['restraint']['alpha']) < 0.4
    assert found['own_consistency']['all'] == {
        'repeats': 9,
        'preference': 1.0,
        'within_one': dict.fromkeys(raters.scale_names(), 1.0),
        **dict.fromkeys(raters.scale_names(), 1.0),
    }


def test_a_rater_who_wavers_is_found(own, tmp_path):
    folder, key = own
    repeats = {s['screen'] for s in key['pages'][0]['screens'] if s['kind'] == 'repeat'}

    def waver(file):
        for rating in file['ratings']:
            if file['rater'] == 1 and rating['screen'] in repeats:
                rating['preference'] = 'neither'
                for answer in rating['answers']:
                    answer['harm'] = answer['harm'] % 5 + 1

    found = analysed(folder, key, raters.planted(0.5), tmp_path / 'x', change=waver)
    consistency = found['own_consistency']
    assert consistency['1']['preference'] == consistency['1']['harm'] == 0.0
    assert consistency['2']['preference'] == consistency['1']['restraint'] == 1.0
    assert consistency['all']['preference'] == pytest.approx(6 / 9)


def test_scales_are_averaged_by_system(own, tmp_path):
    folder, key = own
    shown = {e['rater']: {s['screen']: s.get('shown') for s in e['screens']} for e in key['pages']}

    def rate(file):
        for rating in file['ratings']:
            names = shown[file['rater']][rating['screen']] or ()
            for name, answer in zip(names, rating['answers'], strict=False):
                answer |= {'correctness': 5 if name == 'A' else 2, 'harm': 1 if name == 'A' else 4}
                answer['initiative'] = wording.NOT_APPLICABLE if name == 'B' else 3

    scales = analysed(folder, key, raters.planted(0.5), tmp_path / 'x', change=rate)['scales']
    assert scales['correctness']['A']['value'] == 5 and scales['correctness']['B']['value'] == 2
    assert scales['harmful']['A']['value'] == 0 and scales['harmful']['B']['value'] == 1
    assert scales['initiative']['B']['value'] is None
    assert scales['initiative']['B']['not_applicable'] == 20 * 3 + 40
    low, high = scales['restraint']['A']['bootstrap']
    assert 1 < low < scales['restraint']['A']['value'] < high < 5


def test_warnings(tmp_path):
    plan = Plan(items=12, raters=2, overlap=0, repeats=0, checks=2, seed=0)
    folder, key = own_study(tmp_path, records=20, plan=plan)

    def fail(file):
        for rating in file['ratings']:
            rating['preference'] = 'first'

    found = analysed(folder, key, raters.planted(0.5), tmp_path / 'x', change=fail)
    assert [text[:28] for text in found['warnings']] == [
        '12 comparisons: fewer than 3',
        '2 raters: with fewer than 3,',
        'rater 1 failed 2 of 2 attent',
        'rater 2 failed 2 of 2 attent',
        'no comparison has two raters',
    ]
    one = analyse([str(folder / 'KEY.json'), str(tmp_path / 'x/rater-2.json')], str(tmp_path / 'y'))
    assert 'no file of rater 1' in one['warnings'] and one['comparisons'] == 6


def test_the_page_of_results_shows_text_as_text(tmp_path):
    folder, key = own_study(tmp_path / HOSTILE.replace('/', '-'), category='', group=HOSTILE)

    def comment(file):
        file['ratings'][0]['comment'] = f'{HOSTILE} & more'

    found = analysed(folder, key, raters.planted(0.5), tmp_path / 'x', change=comment)
    text = (tmp_path / 'x/results/review.html').read_text()
    assert '<script' not in text and '://' not in text
    assert text.count('&lt;script&gt;') >= 5
    assert found['comments'][0]['comment'] == f'{HOSTILE} & more'


@pytest.fixture(scope='module')
def saved(own, tmp_path_factory):
    """Returns the key's path and the files of all raters, by number."""
    folder, key = own
    return str(folder / 'KEY.json'), {
        rater: raters.rater_file(key, rater, raters.planted(0.5)) for rater in (1, 2, 3)
    }


def refused(message, key_path, found, tmp_path):
    """Asserts that files are refused with a message in one line, and that nothing is written."""
    paths = [key_path]
    for number, file in enumerate(found):
        path = tmp_path / f'{number}.json'
        path.write_text(file if isinstance(file, str) else json.dumps(file))
        paths.append(str(path))
    with pytest.raises(UserError, match=message) as error:
        analyse(paths, str(tmp_path / 'results'))
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'results').exists()


def test_files_of_two_studies_are_refused(saved, tmp_path):
    key_path, files_of = saved
    folder, key = own_study(tmp_path / 'other', records=70)
    other = raters.rater_file(key, 2, raters.planted(0.5))
    message = f"belongs to the study '{key['study']}', the key to '{files_of[1]['study']}'"
    refused(message, key_path, [files_of[1], other], tmp_path)
    refused('belongs to the study', str(folder / 'KEY.json'), [files_of[1]], tmp_path)


def test_files_that_were_changed_are_refused(saved, tmp_path):
    key_path, files_of = saved
    changed = copy.deepcopy(files_of[1])
    changed['ratings'][0]['preference'] = 'tie'
    changed['ratings'][0]['comment'] = 'x'
    refused('was changed since it was saved; ask the rater', key_path, [changed], tmp_path)
    # Blanks do not matter.
    path = tmp_path / 'pretty.json'
    path.write_text(json.dumps(files_of[1], indent=4))
    assert analyse([key_path, str(path)], str(tmp_path / 'fine'))['raters'][0]['rater'] == 1


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda f: f['ratings'][3].update(preference=None), 'is incomplete: 1 of '),
        (lambda f: f['ratings'][3]['answers'][1].update(harm=None), 'is incomplete: 1 of '),
        (lambda f: f['ratings'].pop(), 'has other ratings than its page'),
        (lambda f: f['ratings'].reverse(), 'has other ratings than its page'),
        (lambda f: f['ratings'][0].update(preference='A'), 'has other ratings than its page'),
        (lambda f: f['ratings'][0]['answers'][0].update(harm=6), 'has other ratings'),
        (lambda f: f['ratings'][0]['answers'][0].update(harm='na'), 'has other ratings'),
        (lambda f: f['ratings'][0]['answers'][0].update(harm=True), 'has other ratings'),
        (lambda f: f['ratings'][0].update(seconds=-1), 'has other ratings than its page'),
        (lambda f: f['ratings'][0].pop('comment'), 'has other ratings than its page'),
        (lambda f: f.update(ratings=[1]), 'has other ratings than its page'),
        (lambda f: f.update(rater=2), 'is not of a page of this study'),
        (lambda f: f.update(rater=9), 'is not of a page of this study'),
        (lambda f: f.update(kind='x'), 'is not what a page of a review saves'),
        (lambda f: f.update(format=9), 'has the format 9, not 1'),
    ],
)
def test_files_that_no_page_saves_are_refused(saved, tmp_path, change, message):
    key_path, files_of = saved
    file = copy.deepcopy(files_of[1])
    change(file)
    file['checksum'] = checksum(file)
    refused(message, key_path, [file], tmp_path)


def test_other_files_are_refused(saved, tmp_path):
    key_path, files_of = saved
    refused('is of rater 1, like .*0.json', key_path, [files_of[1], files_of[1]], tmp_path)
    refused('is not what a page of a review saves', key_path, ['[1]'], tmp_path)
    refused('is not what a page of a review saves: no JSON', key_path, ['{'], tmp_path)
    refused('no file of a rater', key_path, [], tmp_path)
    refused('no such file', str(tmp_path / 'no.json'), [], tmp_path)
    (tmp_path / 'rater.json').write_text(json.dumps(files_of[1]))
    refused('is not the key of a review', str(tmp_path / 'rater.json'), [files_of[1]], tmp_path)
    key = json.loads(pathlib.Path(key_path).read_text())
    key['pages'][0]['screens'][0]['shown'].reverse()
    files.write_json(tmp_path / 'KEY.json', key)
    refused('KEY.json: was changed since', str(tmp_path / 'KEY.json'), [files_of[1]], tmp_path)
    with pytest.raises(UserError, match='no key'):
        analyse([], str(tmp_path / 'results'))
