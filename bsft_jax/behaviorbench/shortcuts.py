"""Shortcut baselines: what linear classifiers know of the behavior and the answer without reading.

Three views: `bag_of_words` (who speaks, all words of messages and options), `options_only` and
`request_only` (the last sentence of the last user turn). Words are single words and pairs of
neighbours; numbers stay whole. Needs scikit-learn, imported on the first call.
"""

from __future__ import annotations

import array
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviorbench import splits
from bsft_jax.behaviorbench.records import Record

VIEWS = ('bag_of_words', 'options_only', 'request_only')
CHOICES = ('behavior', 'answer')
_SPLIT_OF = {'held_out': 'test', 'cross_validated': 'train'}
MEASURES = tuple(_SPLIT_OF)
LIMIT = 0.60
FEWEST, MOST, FOLDS = 50, 2000, 5
_PENALTY = 0.01  # C; on the synthetic tasks 0.001 and 0.1 agree with it within 0.03 overall
_ITERATIONS = 10_000

_WORD = re.compile(r"#\d+|\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r'(?<=[.?!])\s+')

Hits = Callable[[Any, Any], np.ndarray]  # rows to fit, rows to score -> which of the latter are right
Results = dict[tuple[str, str], np.ndarray]  # (`chance` or view, measure) -> a value per scored record


def shortcut_baselines(train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
    """Accuracy of each view per category, in the choice of the behavior and in that of the answer.

    The answer is the option that a linear ranking puts first. It sees an option's words, place and
    length, how many of its words the view has, and each word of the view beside the option's first
    word: there, every view has the options too.

    Args:
      train: fitted; also cross-validated, a case kept together, because the other phrasings of a
        test split could hide a leak.
      test: scored as `held_out`. Of each at most `MOST` records per category count, chosen by case.

    Returns `categories`, by name, and `overall`, the scored records of all of them together, as
    `{'train': records, 'test': records, 'behavior': {NAME: {measure: accuracy}}, 'answer': ...}` with
    NAME a view or `chance` (share of the most frequent behavior; one of the number of options); and
    `skipped`, why a category is not there. A choice is None where there is nothing to choose, an
    accuracy where fewer than `FEWEST` records could be scored.
    """
    of_train, of_test = _by_category(train), _by_category(test)
    categories: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    pooled: dict[str, list[Results]] = {choice: [] for choice in CHOICES}
    for category, fitted in sorted(of_train.items()):
        if why := _too_few(fitted):
            skipped[category] = why
            continue
        scored = of_test.get(category, [])
        results = {'behavior': _behavior(fitted, scored), 'answer': _answer(fitted, scored)}
        if not any(results.values()):
            skipped[category] = 'nothing to choose'
            continue
        categories[category] = {'train': len(fitted), 'test': len(scored)}
        for choice in CHOICES:
            categories[category][choice] = _means([results[choice]])
            pooled[choice].append(results[choice])
    overall = {part: sum(row[part] for row in categories.values()) for part in ('train', 'test')}
    overall |= {choice: _means(results) for choice, results in pooled.items()}
    return {'categories': categories, 'overall': overall, 'skipped': skipped}


def over_limit(baselines: dict[str, Any]) -> list[str]:
    """A line for each category and view that tells the behavior.

    That is an accuracy over `LIMIT` (over as much above chance where one behavior is more frequent)
    which is no accident of few records: it is three standard errors above chance.
    """
    lines = []
    for category, row in baselines['categories'].items():
        for view, measure in itertools.product(VIEWS, MEASURES if row['behavior'] else ()):
            accuracy, chance = row['behavior'][view][measure], row['behavior']['chance'][measure]
            if accuracy is None:
                continue
            limit, records = LIMIT + max(0.0, chance - 0.5), row[_SPLIT_OF[measure]]
            if accuracy > limit and accuracy > chance + 3 * math.sqrt(chance * (1 - chance) / records):
                lines.append(
                    f'warning: {category}: {view} tells the behavior: {measure.replace("_", " ")} '
                    f'{accuracy:.2f} of {records} records, limit {limit:.2f}'
                )
    return lines


def table(baselines: dict[str, Any]) -> str:
    """The baselines as plain text; below it what was not measured and what is over the limit."""
    names = ('chance', *VIEWS)
    lines = [('shortcuts', 'choice', *names)]
    for category, row in (*baselines['categories'].items(), ('overall', baselines['overall'])):
        for choice in CHOICES:
            if row[choice]:
                cells = ('/'.join(_shown(row[choice][name][m]) for m in MEASURES) for name in names)
                lines.append((category, choice, *cells))
    if len(lines) == 1:
        text = ['shortcuts: nothing measured']
    else:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ['  '.join(map(str.ljust, line, widths)).rstrip() for line in lines]
        text.append('accuracy, held out/cross-validated; -: too few records')
    reasons: dict[str, list[str]] = {}
    for category, why in baselines['skipped'].items():
        reasons.setdefault(why, []).append('records without a category' if category == 'none' else category)
    text += [f'not measured, {why}: {", ".join(which)}' for why, which in reasons.items()]
    return '\n'.join([*text, *over_limit(baselines)])


def _shown(accuracy: float | None) -> str:
    return '-' if accuracy is None else f'{accuracy:.2f}'


def _too_few(fitted: Sequence[Record]) -> str:
    """Why these training records cannot be measured; '' if they can."""
    if len(fitted) < FEWEST:
        return f'under {FEWEST} training records'
    return f'under {FOLDS} training cases' if len(set(splits.names_of(fitted))) < FOLDS else ''


def _by_category(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records with messages by category, at most `MOST` of each: cases in an order of their own."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.messages:
            found.setdefault(record.category or 'none', []).append(record)
    for category, rows in found.items():
        if len(rows) > MOST:
            order = [(zlib.crc32(case.encode()), case) for case in splits.names_of(rows)]
            found[category] = [rows[i] for i in sorted(range(len(rows)), key=order.__getitem__)][:MOST]
    return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _with_pairs(words: Sequence[str]) -> list[str]:
    return [*words, *map(' '.join, itertools.pairwise(words))]


def _view(record: Record, view: str, *, options: bool = True) -> str:
    """The text that a view shows; `options` numbered, or without those of `bag_of_words`."""
    if view == 'request_only':
        asked = [m.content for m in record.messages if m.role == 'user'][-1:]
        return _SENTENCE_END.split(asked[0].strip())[-1] if asked else ''
    listed = ' '.join(f'#{i} {option}' for i, option in enumerate(record.options)) if options else ''
    if view == 'options_only':
        return listed
    return ' '.join([*(f'{m.name or m.role}: {m.content}' for m in record.messages), listed])


def _option_features(record: Record, view: str) -> list[list[str]]:
    """Features of each option; one that counts is there as often as it counts."""
    of_option = [_words(option) for option in record.options]
    seen = set(_words(_view(record, view, options=False)))
    shares = [sum(word in seen for word in words) / max(len(words), 1) for words in of_option]
    lengths = [len(option) for option in record.options]
    features = []
    for i, words in enumerate(of_option):
        others = {word for k, other in enumerate(of_option) if k != i for word in other}
        found = [*_with_pairs(words), f'#{i}']
        found += ['#in view'] * sum(word in seen for word in words)
        found += ['#not in view'] * sum(word not in seen for word in words)
        found += ['#in others'] * sum(word in others for word in words)
        found += ['#most in view'] if shares[i] == max(shares) else []
        found += ['#longest'] if lengths[i] == max(lengths) else []
        found += ['#shortest'] if lengths[i] == min(lengths) else []
        found += [f'{word} & {words[0]}' for word in seen] if words else []
        features.append(found)
    return features


def _counts(features: Iterable[Iterable[str]], fitted: int) -> Any:
    """Sparse counts (rows, features) of the features that two of the first `fitted` rows have, by their CRC-32.

    The names are not kept: a long note has one for each of its words beside each option.
    """
    from scipy import sparse

    hashes, ends = array.array('I'), [0]
    for row in features:
        hashes.extend(zlib.crc32(name.encode()) for name in ('', *row))
        ends.append(len(hashes))
    names, columns = np.unique(np.frombuffer(hashes, np.uint32), return_inverse=True)
    counts = sparse.csr_matrix((np.ones(len(columns)), columns, ends), (len(ends) - 1, len(names)))
    counts.sum_duplicates()
    rows_with = np.bincount(counts[:fitted].indices, minlength=len(names))
    return counts[:, rows_with >= 2]


def _measured(hits: Hits, fitted: Sequence[Record], scored: Sequence[Record]) -> dict[str, np.ndarray]:
    """Whether each record is right: of `scored`, and of `fitted` by folds (in the order of the folds)."""
    from sklearn.model_selection import GroupKFold

    rows = np.arange(len(fitted))
    folds = GroupKFold(FOLDS).split(rows, groups=splits.names_of(fitted))
    return {
        'held_out': hits(rows, len(fitted) + np.arange(len(scored))) if len(scored) else np.zeros(0),
        'cross_validated': np.concatenate([hits(fit, score) for fit, score in folds]),
    }


def _kept(records: Sequence[Record], keep: Callable[[Record], bool]) -> list[Record]:
    """Those to keep, or none where they are too few to score."""
    kept = [record for record in records if keep(record)]
    return kept if len(kept) >= FEWEST else []


def _behavior(fitted: Sequence[Record], scored: Sequence[Record]) -> Results:
    from sklearn.svm import LinearSVC

    fitted, scored = (_kept(records, lambda r: bool(r.behavior)) for records in (fitted, scored))
    behaviors = np.array([r.behavior for r in (*fitted, *scored)])
    if _too_few(fitted) or len(set(behaviors[: len(fitted)])) < 2:
        return {}
    results = {}
    parts = {'held_out': behaviors[len(fitted) :], 'cross_validated': behaviors[: len(fitted)]}
    for measure, part in parts.items():
        most = max(np.unique(part, return_counts=True)[1], default=0)
        results['chance', measure] = np.full(len(part), most / max(len(part), 1))
    for view in VIEWS:
        x_RF = _counts((_with_pairs(_words(_view(r, view))) for r in (*fitted, *scored)), len(fitted))

        def hits(fit, score, x_RF=x_RF):
            if len(set(behaviors[fit])) < 2:
                return behaviors[score] == behaviors[fit[0]]
            model = LinearSVC(C=_PENALTY, max_iter=_ITERATIONS, random_state=0).fit(x_RF[fit], behaviors[fit])
            return model.predict(x_RF[score]) == behaviors[score]

        results |= {(view, measure): right for measure, right in _measured(hits, fitted, scored).items()}
    return results


def _answer(fitted: Sequence[Record], scored: Sequence[Record]) -> Results:
    """Fits the differences between the right option and each wrong one, and takes the best option."""
    from sklearn.svm import LinearSVC

    fitted, scored = (_kept(records, lambda r: r.answer is not None) for records in (fitted, scored))
    if _too_few(fitted):
        return {}
    records = [*fitted, *scored]
    first = np.cumsum([0, *(len(r.options) for r in records)])
    answers = first[:-1] + np.array([r.answer for r in records])
    chance = np.array([1 / len(r.options) for r in records])
    results = {
        ('chance', 'held_out'): chance[len(fitted) :],
        ('chance', 'cross_validated'): chance[: len(fitted)],
    }
    for view in VIEWS:
        x_OF = _counts((row for r in records for row in _option_features(r, view)), first[len(fitted)])

        def hits(fit, score, x_OF=x_OF):
            pairs = [(answers[i], k) for i in fit for k in range(first[i], first[i + 1]) if k != answers[i]]
            right, wrong = np.array(pairs).T
            sign = np.where(np.arange(len(pairs)) % 2, 1, -1)
            model = LinearSVC(C=_PENALTY, max_iter=_ITERATIONS, random_state=0, fit_intercept=False)
            model.fit((x_OF[right] - x_OF[wrong]).multiply(sign[:, None]).tocsr(), sign)
            points = x_OF @ model.coef_[0]
            return np.array(
                [first[i] + points[first[i] : first[i + 1]].argmax() == answers[i] for i in score]
            )

        results |= {(view, measure): right for measure, right in _measured(hits, fitted, scored).items()}
    return results


def _means(parts: Sequence[Results]) -> dict[str, dict[str, float | None]] | None:
    """Mean over the records of all parts; None where there is none."""
    parts = [part for part in parts if part]
    if not parts:
        return None
    means: dict[str, dict[str, float | None]] = {}
    for name, measure in itertools.product(('chance', *VIEWS), MEASURES):
        values = np.concatenate([part[name, measure] for part in parts])
        means.setdefault(name, {})[measure] = round(float(values.mean()), 4) if len(values) else None
    return means
