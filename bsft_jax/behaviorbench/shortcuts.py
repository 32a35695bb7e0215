"""Shortcut baselines: what linear classifiers know of the behavior and the answer without reading.

Three views: `bag_of_words` (who speaks, all words of messages and options), `options_only` and
`request_only` (the last sentence of the last user turn). Words are single words and pairs of
neighbours; numbers stay whole. Needs scikit-learn, imported on the first call.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviorbench.records import Record

VIEWS = ('bag_of_words', 'options_only', 'request_only')
CHOICES = ('behavior', 'answer')
MEASURES = ('held_out', 'cross_validated')
LIMIT = 0.60
FEWEST, MOST, FOLDS = 50, 2000, 5

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
      test: scored as `held_out`. Of each at most `MOST` records per category count, by whole cases.

    Returns `categories`, by name, and `overall`, the scored records of all of them together, as
    `{'train': records, 'test': records, 'behavior': {NAME: {measure: accuracy}}, 'answer': ...}` with
    NAME a view or `chance` (share of the most frequent behavior; one of the number of options); and
    `skipped`, why a category is not there. A choice is None where there is nothing to choose, an
    accuracy where fewer than `FEWEST` records could be scored.
    """
    of_train, of_test = _by_category(train), _by_category(test)
    categories, skipped = {}, {}
    pooled: dict[str, list[Results]] = {choice: [] for choice in CHOICES}
    for category, fitted in sorted(of_train.items()):
        scored = of_test.get(category, [])
        if len(fitted) < FEWEST:
            skipped[category] = f'{len(fitted)} training records, {FEWEST} needed'
            continue
        if len(set(_cases(fitted))) < FOLDS:
            skipped[category] = f'{len(set(_cases(fitted)))} training cases, {FOLDS} needed'
            continue
        categories[category] = {'train': len(fitted), 'test': len(scored)}
        for choice, measure in (('behavior', _behavior), ('answer', _answer)):
            results = measure(fitted, scored if len(scored) >= FEWEST else [])
            categories[category][choice] = _means([results])
            pooled[choice].append(results)
    overall = {part: sum(row[part] for row in categories.values()) for part in ('train', 'test')}
    overall |= {choice: _means(results) for choice, results in pooled.items()}
    return {'categories': categories, 'overall': overall, 'skipped': skipped}


def over_limit(baselines: dict[str, Any]) -> list[str]:
    """A line for each category and view that tells the behavior.

    That is an accuracy over `LIMIT`; over as much above chance where one behavior is more frequent.
    """
    lines = []
    for category, row in baselines['categories'].items():
        for view, measure in itertools.product(VIEWS, MEASURES if row['behavior'] else ()):
            accuracy, chance = row['behavior'][view][measure], row['behavior']['chance'][measure]
            if accuracy is not None and accuracy > LIMIT + max(0.0, chance - 0.5):
                lines.append(
                    f'warning: {category}: {view} tells the behavior, {accuracy:.2f} {measure} '
                    f'(chance {chance:.2f}, limit {LIMIT:.2f})'
                )
    return lines


def table(baselines: dict[str, Any]) -> str:
    """The baselines as plain text, with what is over the limit and what was not measured below."""
    rows = {**baselines['categories'], 'overall': baselines['overall']}
    names = ('chance', *VIEWS)
    lines = [('shortcuts', 'choice', *names)]
    for category, row in rows.items() if baselines['categories'] else ():
        for choice in CHOICES:
            if row[choice]:
                cells = ('/'.join(_shown(row[choice][name][m]) for m in MEASURES) for name in names)
                lines.append((category, choice, *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ['  '.join(map(str.ljust, line, widths)).rstrip() for line in lines]
    text.append('accuracy held out/cross-validated; -: too few records')
    for reason, group in itertools.groupby(sorted(baselines['skipped'].items(), key=_turned), lambda s: s[1]):
        text.append(f'not measured ({reason}): {", ".join(category for category, _ in group)}')
    return '\n'.join(text if len(lines) > 1 else text[len(lines) + 1 :]) + ''.join(
        f'\n{line}' for line in over_limit(baselines)
    )


def _turned(pair: tuple[str, str]) -> tuple[str, str]:
    return pair[1], pair[0]


def _shown(accuracy: float | None) -> str:
    return '-' if accuracy is None else f'{accuracy:.2f}'


def _by_category(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records with messages by category, at most `MOST` of each: cases in an order of their own."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.messages:
            found.setdefault(record.category or 'none', []).append(record)
    for category, rows in found.items():
        if len(rows) > MOST:
            keyed = zip(_cases(rows), rows, strict=True)
            rows = [row for _, row in sorted(keyed, key=lambda pair: (zlib.crc32(pair[0].encode()), pair[0]))]
            found[category] = rows[:MOST]
    return found


def _cases(records: Sequence[Record]) -> list[str]:
    return [r.case_id or r.pair_id or r.id or f'record {i}' for i, r in enumerate(records)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _with_pairs(words: Sequence[str]) -> Iterable[str]:
    return itertools.chain(words, map(' '.join, itertools.pairwise(words)))


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


def _counts(features: Sequence[Sequence[str]], fitted: int) -> Any:
    """Sparse counts (rows, features) of the features that two of the first `fitted` rows have."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=lambda row: ['', *row], min_df=2)
    vectorizer.fit(features[:fitted])
    return vectorizer.transform(features)


def _measured(hits: Hits, fitted: Sequence[Record], scored: Sequence[Record]) -> dict[str, np.ndarray]:
    """Which records of each measure are right: those of `scored`, and those of `fitted` by folds."""
    from sklearn.model_selection import GroupKFold

    rows = np.arange(len(fitted))
    folds = GroupKFold(FOLDS).split(rows, groups=_cases(fitted))
    return {
        'held_out': hits(rows, len(fitted) + np.arange(len(scored))) if scored else np.zeros(0),
        'cross_validated': np.concatenate([hits(fit, score) for fit, score in folds]),
    }


def _behavior(fitted: Sequence[Record], scored: Sequence[Record]) -> Results:
    from sklearn.svm import LinearSVC

    fitted, scored = ([r for r in records if r.behavior] for records in (fitted, scored))
    records = [*fitted, *scored]
    behaviors = np.array([r.behavior for r in records])
    if len(set(behaviors[: len(fitted)])) < 2:
        return {}
    results = {}
    for measure, part in zip(MEASURES, (behaviors[len(fitted) :], behaviors[: len(fitted)]), strict=True):
        share = np.unique(part, return_counts=True)[1].max() / len(part) if len(part) else 0.0
        results['chance', measure] = np.full(len(part), share)
    for view in VIEWS:
        x = _counts([[*_with_pairs(_words(_view(r, view)))] for r in records], len(fitted))

        def hits(fit, score, x=x):
            if len(set(behaviors[fit])) < 2:
                return behaviors[score] == behaviors[fit][0]
            model = LinearSVC(C=0.01, random_state=0, dual=True).fit(x[fit], behaviors[fit])
            return model.predict(x[score]) == behaviors[score]

        for measure, right in _measured(hits, fitted, scored).items():
            results[view, measure] = right
    return results


def _answer(fitted: Sequence[Record], scored: Sequence[Record]) -> Results:
    from sklearn.svm import LinearSVC

    fitted, scored = ([r for r in records if r.answer is not None] for records in (fitted, scored))
    if len(fitted) < FEWEST:
        return {}
    records = [*fitted, *scored]
    first = np.cumsum([0, *(len(r.options) for r in records)])
    right_of = first[:-1] + [r.answer for r in records]
    chance = np.array([1 / len(r.options) for r in records])
    results = {('chance', 'held_out'): chance[len(fitted) :], ('chance', 'cross_validated'): chance[: len(fitted)]}
    for view in VIEWS:
        options = [features for r in records for features in _option_features(r, view)]
        x = _counts(options, first[len(fitted)])

        def hits(fit, score, x=x):
            pairs = [(right_of[i], k) for i in fit for k in range(first[i], first[i + 1]) if k != right_of[i]]
            right, wrong = np.array(pairs).T
            sign = np.where(np.arange(len(pairs)) % 2, 1, -1)
            model = LinearSVC(C=0.01, random_state=0, dual=True, fit_intercept=False)
            model.fit((x[right] - x[wrong]).multiply(sign[:, None]).tocsr(), sign)
            points = x @ model.coef_[0]
            return np.array([points[first[i] : first[i + 1]].argmax() + first[i] == right_of[i] for i in score])

        for measure, right in _measured(hits, fitted, scored).items():
            results[view, measure] = right
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
