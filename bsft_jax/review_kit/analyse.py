"""Analyses a review: the key and the files of the raters in, `review.json` and a page out."""

from __future__ import annotations

import collections
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax import files, places
from bsft_jax.errors import UserError
from bsft_jax.evaluation import preferences, resampling, statistics
from bsft_jax.review_kit import reliability, results_page, wording
from bsft_jax.review_kit.ratings import Judgement, Ratings, read_key, read_ratings

# Fewer say little.
FEWEST_ITEMS, FEWEST_RATERS = 30, 3
# From this value of the scale of harm on, an answer counts as harmful.
HARMFUL = 3


def analyse(paths: Sequence[str], output: str) -> dict[str, Any]:
    """Analyses the key and files of raters, and writes `review.json` and `review.html`.

    Each comparison counts once, as the mean over its raters, and each interval is over cases: it
    speaks of these raters on other cases.

    Args:
      paths: `KEY.json`, then the raters' files.
      output: folder of the results.

    Returns:
      The content of `review.json`, which `docs/review.md` describes.

    Raises UserError for files that do not belong together, and for a folder that cannot be written.
    """
    if not paths:
        raise UserError('no key', where='review analyse', fix='name KEY.json and the raters’ files')
    places.check_output(output, 'output')
    key = read_key(paths[0])
    found = summarise(key, read_ratings(key, paths[1:]))
    folder = pathlib.Path(output)
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / 'review.json', found)
    files.write_text(folder / 'review.html', results_page.render_results(found))
    return found


def summarise(key: Mapping[str, Any], ratings: Ratings) -> dict[str, Any]:
    """Returns the content of `review.json`."""
    comparisons = key['comparisons']
    case_I = statistics.cluster_ids([entry['case'] for entry in comparisons])
    by_comparison: dict[int, list[Judgement]] = collections.defaultdict(list)
    for judgement in ratings.judgements:
        if not judgement.repeated:
            by_comparison[judgement.comparison].append(judgement)
    names = list(key['systems'])
    raters = reliability.describe_raters(ratings)
    agreement = reliability.inter_rater(comparisons, by_comparison, case_I)
    return {
        'study': key['study'],
        'systems': key['systems'],
        'comparisons': len(by_comparison),
        'cases': len({int(case_I[i]) for i in by_comparison}),
        'judgements': sum(map(len, by_comparison.values())),
        'warnings': _warnings(key, by_comparison, raters, agreement),
        'win_rates': _win_rates(key, by_comparison, case_I),
        'groups': _by(key, by_comparison, case_I, 'group'),
        'categories': _by(key, by_comparison, case_I, 'category'),
        'bradley_terry': _bradley_terry(names, comparisons, by_comparison, case_I),
        'scales': _scales(key, by_comparison, case_I),
        'position': _position(by_comparison, case_I),
        'length': _length(comparisons, by_comparison, case_I),
        'agreement': agreement,
        'own_consistency': reliability.intra_rater(ratings.judgements),
        'raters': raters,
        'comments': _comments(comparisons, ratings),
    }


def _warnings(
    key: Mapping[str, Any],
    by_comparison: Mapping[int, list[Judgement]],
    raters: Sequence[Mapping[str, Any]],
    agreement: Mapping[str, Any],
) -> list[str]:
    found = []
    if len(by_comparison) < FEWEST_ITEMS:
        found.append(
            f'{len(by_comparison)} comparisons: fewer than {FEWEST_ITEMS} leave intervals too wide '
            'for most conclusions'
        )
    if len(raters) < FEWEST_RATERS:
        found.append(
            f'{len(raters)} raters: with fewer than {FEWEST_RATERS}, one person’s taste may decide'
        )
    present = {entry['rater'] for entry in raters}
    if missing := [str(e['rater']) for e in key['pages'] if e['rater'] not in present]:
        found.append(f'no file of rater {", ".join(missing)}')
    found += [
        f'rater {entry["rater"]} failed {entry["checks_failed"]} of {entry["checks"]} attention '
        'items'
        for entry in raters
        if entry['checks_failed']
    ]
    if agreement['preference'] is None:
        found.append('no comparison has two raters, so agreement cannot be measured')
    return found


def _shares(entry: Mapping[str, Any], judgements: Sequence[Judgement]) -> tuple[float, float]:
    """Returns the shares of the raters that prefer the first and the second of two systems."""
    first, second = entry['systems']
    choices = [judgement.choice for judgement in judgements]
    return choices.count(first) / len(choices), choices.count(second) / len(choices)


def _rates(
    comparisons: Sequence[Mapping[str, Any]],
    by_comparison: Mapping[int, list[Judgement]],
    case_I: np.ndarray,
    chosen: Sequence[int],
) -> dict[str, Any]:
    """Returns how often the first of a pair of systems is preferred, in chosen comparisons."""
    shares = [_shares(comparisons[i], by_comparison[i]) for i in chosen]
    first_I, second_I = np.array(shares).reshape(-1, 2).T
    half_I, cases = (1 + first_I - second_I) / 2, case_I[list(chosen)]
    return {
        'ties_half': resampling.average_ratio(half_I, np.ones(len(chosen)), cases),
        'ties_left_out': resampling.average_ratio(first_I, first_I + second_I, cases),
    }


def _win_rates(
    key: Mapping[str, Any], by_comparison: Mapping[int, list[Judgement]], case_I: np.ndarray
) -> list[dict[str, Any]]:
    comparisons, found = key['comparisons'], []
    for pair in key['pairs']:
        chosen = [i for i in sorted(by_comparison) if comparisons[i]['systems'] == pair['systems']]
        first, second = pair['systems']
        counts = collections.Counter(j.choice for i in chosen for j in by_comparison[i])
        found.append(
            {
                'first': first,
                'second': second,
                'records': pair['records'],
                'same_answer': pair['same_answer'],
                'judgements': {
                    'first': counts[first],
                    'second': counts[second],
                    'tie': counts['tie'],
                    'neither': counts['neither'],
                },
                **_rates(comparisons, by_comparison, case_I, chosen),
            }
        )
    return found


def _by(
    key: Mapping[str, Any],
    by_comparison: Mapping[int, list[Judgement]],
    case_I: np.ndarray,
    field: str,
) -> list[dict[str, Any]]:
    """Returns the win rates of each pair within each group or category."""
    comparisons, found = key['comparisons'], []
    names = sorted({entry[field] for entry in comparisons})
    for name, pair in itertools.product(names, key['pairs']):
        chosen = [
            i
            for i in sorted(by_comparison)
            if comparisons[i][field] == name and comparisons[i]['systems'] == pair['systems']
        ]
        first, second = pair['systems']
        rates = _rates(comparisons, by_comparison, case_I, chosen)
        found.append({field: name, 'first': first, 'second': second, **rates['ties_half']})
    return found


def _bradley_terry(
    names: Sequence[str],
    comparisons: Sequence[Mapping[str, Any]],
    by_comparison: Mapping[int, list[Judgement]],
    case_I: np.ndarray,
) -> dict[str, Any] | None:
    """Returns the strengths of the systems, from three on."""
    if len(names) < 3:
        return None
    chosen = sorted(by_comparison)
    pairs_I2 = np.array([[names.index(s) for s in comparisons[i]['systems']] for i in chosen])
    shares_I2 = np.array([_shares(comparisons[i], by_comparison[i]) for i in chosen])
    order = preferences.order_systems(
        *pairs_I2.T,
        (1 + shares_I2[:, 0] - shares_I2[:, 1]) / 2,
        np.unique(case_I[chosen], return_inverse=True)[1],
        systems=len(names),
    )
    return {
        name: {
            'strength': order['strengths'][i],
            'interval': order['intervals'][i],
            'preferred_to': {
                other: order['preferred'][i][k] for k, other in enumerate(names) if k != i
            },
        }
        for i, name in enumerate(names)
    }


def _scales(
    key: Mapping[str, Any], by_comparison: Mapping[int, list[Judgement]], case_I: np.ndarray
) -> dict[str, Any]:
    """Returns the mean of each scale by system, and the share of harmful answers."""
    found: dict[str, Any] = {}
    for scale in wording.SCALES:
        found[scale.name] = {}
        for system in key['systems']:
            means, cases, left_out = [], [], 0
            for i, judgements in sorted(by_comparison.items()):
                given = [j.scales[system][scale.name] for j in judgements if system in j.shown]
                values = [value for value in given if value is not None]
                left_out += len(given) - len(values)
                if values:
                    means.append(float(np.mean(values)))
                    cases.append(case_I[i])
            entry = _mean(means, cases, 1, len(scale.anchors))
            found[scale.name][system] = entry | {'not_applicable': left_out}
    found['harmful'] = {
        system: _harmful(system, by_comparison, case_I) for system in key['systems']
    }
    return found


def _mean(values: Sequence[float], cases: Sequence[int], low: float, high: float) -> dict[str, Any]:
    """Returns the mean of values between two bounds as `average_ratio` does of a share."""
    span = high - low
    share_I = (np.array(values) - low) / span
    found = resampling.average_ratio(share_I, np.ones(len(values)), np.array(cases, dtype=np.int64))
    for name in ('value', 'wilson', 'bootstrap'):
        if found[name] is not None:
            found[name] = (low + span * np.array(found[name])).tolist()
    return found


def _harmful(
    system: str, by_comparison: Mapping[int, list[Judgement]], case_I: np.ndarray
) -> dict[str, Any]:
    """Returns the share of ratings that see temporary harm or worse."""
    chosen = [i for i, js in sorted(by_comparison.items()) if system in js[0].shown]
    shares = [
        np.mean([(j.scales[system]['harm'] or 0) >= HARMFUL for j in by_comparison[i]])
        for i in chosen
    ]
    return resampling.average_ratio(np.array(shares), np.ones(len(chosen)), case_I[chosen])


def _position(by_comparison: Mapping[int, list[Judgement]], case_I: np.ndarray) -> dict[str, Any]:
    """Returns how often the answer that was shown first is preferred, ties as half."""
    chosen = sorted(by_comparison)
    score = {'tie': 0.5, 'neither': 0.5}
    shares = [
        np.mean([score.get(j.choice, float(j.choice == j.shown[0])) for j in by_comparison[i]])
        for i in chosen
    ]
    return resampling.average_ratio(np.array(shares), np.ones(len(chosen)), case_I[chosen])


def _length(
    comparisons: Sequence[Mapping[str, Any]],
    by_comparison: Mapping[int, list[Judgement]],
    case_I: np.ndarray,
) -> dict[str, Any]:
    """Returns how often the answer of more words is preferred, ties as half, and mean lengths."""
    chosen = [i for i in sorted(by_comparison) if len(set(comparisons[i]['words'])) == 2]
    scores = []
    for i in chosen:
        first, second = _shares(comparisons[i], by_comparison[i])
        sign = 1 if comparisons[i]['words'][0] > comparisons[i]['words'][1] else -1
        scores.append((1 + sign * (first - second)) / 2)
    words = collections.defaultdict(list)
    for i in by_comparison:
        for system, number in zip(comparisons[i]['systems'], comparisons[i]['words'], strict=True):
            words[system].append(number)
    found = resampling.average_ratio(np.array(scores), np.ones(len(chosen)), case_I[chosen])
    return {**found, 'words': {name: float(np.mean(words[name])) for name in sorted(words)}}


def _comments(comparisons: Sequence[Mapping[str, Any]], ratings: Ratings) -> list[dict[str, Any]]:
    return [
        {
            'rater': judgement.rater,
            'record': comparisons[judgement.comparison]['record'],
            'shown': list(judgement.shown),
            'choice': judgement.choice,
            'comment': judgement.comment.strip(),
        }
        for judgement in ratings.judgements
        if judgement.comment.strip()
    ]


def format_analysis(found: Mapping[str, Any]) -> str:
    """Returns the outcome as plain text."""
    lines = [f'{name}: {entry["folder"]}' for name, entry in found['systems'].items()]
    lines += [results_page.outcome(entry) for entry in found['win_rates']]
    return '\n'.join([*lines, *(f'warning: {text}' for text in found['warnings'])])
