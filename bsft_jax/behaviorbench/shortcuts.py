"""Shortcut baselines: how well linear classifiers tell the behavior and the answer without reading.

There are three views of a record: `bag_of_words` (who speaks, and all words of messages and
options), `options_only` and `request_only` (the last sentence of the last user turn). Features are
single words and pairs of neighbouring words; a number is one word. The module needs scikit-learn,
which the first call imports.
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
from bsft_jax.records.record import Record

VIEWS = ('bag_of_words', 'options_only', 'request_only')
CHOICES = ('behavior', 'answer')
_MEASURED_SPLITS = {'held_out': 'test', 'cross_validated': 'train'}
MEASURES = tuple(_MEASURED_SPLITS)
# Accuracy of the behavior above which a view gives it away.
LIMIT = 0.60
# A category needs MIN_RECORDS to be fitted and to be scored; MAX_RECORDS of each split are used.
MIN_RECORDS, MAX_RECORDS, FOLDS = 50, 2000, 5
# `C` of the classifiers; on the synthetic tasks 0.001 and 0.1 agree with it within 0.03 overall.
_PENALTY = 0.01
_ITERATIONS = 10_000

_WORD = re.compile(r"#\d+|\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r'(?<=[.?!])\s+')

# Maps (indices of records to fit, indices of records to score) to whether each of the latter is
# predicted correctly.
Hits = Callable[[Any, Any], np.ndarray]
# Maps (`chance` or a view, measure) to one value per scored record.
Results = dict[tuple[str, str], np.ndarray]


def shortcut_baselines(train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
    """Computes how often each view tells the behavior and the answer, by category.

    The behavior is predicted by a linear classifier. The answer is the option that a linear ranking
    puts first. The ranking sees an option's words, position and length, how many of its words the
    view has, and each word of the view paired with the option's first word; for the answer, every
    view has the options too.

    Args:
      train: records to fit. They are also cross-validated, with the records of a case in one fold,
        because the other phrasings of a test split could hide a leak.
      test: records to score as `held_out`. At most `MAX_RECORDS` per category are used of each,
        chosen by case.

    Returns:
      `categories` by name, and `overall` over the scored records of all of them, each as
      `{'train': records, 'test': records, 'behavior': {NAME: {measure: accuracy}}, 'answer': ...}`.
      NAME is a view or `chance`: the share of the most frequent behavior, or one over the number of
      options. A choice is None if there is nothing to choose, an accuracy if fewer than
      `MIN_RECORDS` records could be scored. `skipped` has the reason for each category left out.
      Records of several difficulty levels are measured apart: `difficulties` has all of that by
      level, `none` for those without one, and nothing else is returned.
    """
    levels = {r.difficulty for r in (*train, *test) if r.messages}
    if len(levels - {None}) > 1:
        return {
            'difficulties': {
                str(level or 'none'): shortcut_baselines(
                    *([r for r in records if r.difficulty == level] for records in (train, test))
                )
                for level in sorted(levels, key=lambda level: level or math.inf)
            }
        }
    train_records, test_records = _by_category(train), _by_category(test)
    categories: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    pooled: dict[str, list[Results]] = {choice: [] for choice in CHOICES}
    for category, fitted in sorted(train_records.items()):
        if reason := _too_few(fitted):
            skipped[category] = reason
            continue
        scored = test_records.get(category, [])
        results = {'behavior': _behavior(fitted, scored), 'answer': _answer(fitted, scored)}
        if not any(results.values()):
            skipped[category] = 'nothing to choose'
            continue
        categories[category] = {'train': len(fitted), 'test': len(scored)}
        for choice in CHOICES:
            categories[category][choice] = _means([results[choice]])
            pooled[choice].append(results[choice])
    overall = {split: sum(row[split] for row in categories.values()) for split in ('train', 'test')}
    overall |= {choice: _means(results) for choice, results in pooled.items()}
    return {'categories': categories, 'overall': overall, 'skipped': skipped}


def leak_warnings(baselines: dict[str, Any]) -> list[str]:
    """Returns a line for each category and view that gives the behavior away.

    A view does so if its accuracy is above `LIMIT`, raised by as much as chance is above one half,
    and more than three standard errors above chance: a few records may reach the limit by accident.
    Of several difficulty levels, those without test records may give it away.
    """
    lines = []
    for level, own in baselines.get('difficulties', {}).items():
        if own['overall']['test']:
            lines += [f'warning: difficulty {level}, {line[9:]}' for line in leak_warnings(own)]
    for category, row in baselines.get('categories', {}).items():
        for view, measure in itertools.product(VIEWS, MEASURES if row['behavior'] else ()):
            accuracy, chance = row['behavior'][view][measure], row['behavior']['chance'][measure]
            if accuracy is None:
                continue
            limit, records = LIMIT + max(0.0, chance - 0.5), row[_MEASURED_SPLITS[measure]]
            if accuracy <= limit:
                continue
            standard_error = math.sqrt(chance * (1 - chance) / records)
            if accuracy > chance + 3 * standard_error:
                lines.append(
                    f'warning: {category}: {view} tells the behavior: {measure.replace("_", " ")} '
                    f'{accuracy:.2f} of {records} records, limit {limit:.2f}'
                )
    return lines


def format_baselines(baselines: dict[str, Any]) -> str:
    """Returns the baselines as a text table, followed by skipped categories and leak warnings.

    There is a table for each of several difficulty levels.
    """
    tables = [
        f'difficulty {level}\n{_format_table(own)}\n'
        for level, own in baselines.get('difficulties', {}).items()
    ]
    return '\n'.join([*(tables or [_format_table(baselines)]), *leak_warnings(baselines)])


def _format_table(baselines: dict[str, Any]) -> str:
    """Returns the baselines of one difficulty level as a table, then the skipped categories."""
    names = ('chance', *VIEWS)
    lines = [('shortcuts', 'choice', *names)]
    for category, row in (*baselines['categories'].items(), ('overall', baselines['overall'])):
        for choice in CHOICES:
            if row[choice]:
                cells = (
                    '/'.join(_format_accuracy(row[choice][name][m]) for m in MEASURES)
                    for name in names
                )
                lines.append((category, choice, *cells))
    if len(lines) == 1:
        text = ['shortcuts: nothing measured']
    else:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ['  '.join(map(str.ljust, line, widths)).rstrip() for line in lines]
        text.append('accuracy, held out/cross-validated; -: too few records')
    by_reason: dict[str, list[str]] = {}
    for category, reason in baselines['skipped'].items():
        by_reason.setdefault(reason, []).append(
            'records without a category' if category == 'none' else category
        )
    text += [f'not measured, {reason}: {", ".join(names)}' for reason, names in by_reason.items()]
    return '\n'.join(text)


def _format_accuracy(accuracy: float | None) -> str:
    return '-' if accuracy is None else f'{accuracy:.2f}'


def _too_few(fitted: Sequence[Record]) -> str:
    """Returns why these training records cannot be measured; '' if they can."""
    if len(fitted) < MIN_RECORDS:
        return f'under {MIN_RECORDS} training records'
    return f'under {FOLDS} training cases' if len(set(splits.case_names(fitted))) < FOLDS else ''


def _can_measure(fitted: Sequence[Record]) -> bool:
    """Returns whether these records fill the folds; those of the same words are in one."""
    return not _too_few(fitted) and len(set(splits.cluster_records(fitted))) >= FOLDS


def _by_category(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns the records with messages by category, at most `MAX_RECORDS` of each.

    Cases are chosen in an order that depends on their names alone.
    """
    by_category: dict[str, list[Record]] = {}
    for record in records:
        if record.messages:
            by_category.setdefault(record.category or 'none', []).append(record)
    for category, own in by_category.items():
        if len(own) > MAX_RECORDS:
            keys = [(zlib.crc32(case.encode()), case) for case in splits.case_names(own)]
            order = sorted(range(len(own)), key=keys.__getitem__)
            by_category[category] = [own[i] for i in order][:MAX_RECORDS]
    return by_category


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _with_pairs(words: Sequence[str]) -> list[str]:
    """Returns the words and the pairs of neighbouring words."""
    return [*words, *map(' '.join, itertools.pairwise(words))]


def _view_text(record: Record, view: str, *, options: bool = True) -> str:
    """Returns the text that a view shows, with numbered options.

    `options=False` leaves the options out of `bag_of_words` and `options_only`.
    """
    if view == 'request_only':
        requests = [m.content for m in record.messages if m.role == 'user'][-1:]
        return _SENTENCE_END.split(requests[0].strip())[-1] if requests else ''
    listed = (
        ' '.join(f'#{i} {option}' for i, option in enumerate(record.options)) if options else ''
    )
    if view == 'options_only':
        return listed
    return ' '.join([*(f'{m.name or m.role}: {m.content}' for m in record.messages), listed])


def _option_features(record: Record, view: str) -> list[list[str]]:
    """Returns the features of each option; a feature that counts is repeated that many times."""
    option_words = [_words(option) for option in record.options]
    seen = set(_words(_view_text(record, view, options=False)))
    shares = [sum(word in seen for word in words) / max(len(words), 1) for words in option_words]
    lengths = [len(option) for option in record.options]
    features = []
    for i, words in enumerate(option_words):
        others = {word for k, other in enumerate(option_words) if k != i for word in other}
        names = [*_with_pairs(words), f'#{i}']
        names += ['#in view'] * sum(word in seen for word in words)
        names += ['#not in view'] * sum(word not in seen for word in words)
        names += ['#in others'] * sum(word in others for word in words)
        names += ['#most in view'] if shares[i] == max(shares) else []
        names += ['#longest'] if lengths[i] == max(lengths) else []
        names += ['#shortest'] if lengths[i] == min(lengths) else []
        names += [f'{word} & {words[0]}' for word in seen] if words else []
        features.append(names)
    return features


def _count_features(features: Iterable[Iterable[str]], fitted: int) -> Any:
    """Returns sparse counts [rows, features] of the features in two or more rows to fit.

    The first `fitted` rows are fitted. Features are identified by their CRC-32, and their names are
    not kept: a long note has one for each of its words with each option.
    """
    from scipy import sparse

    hashes, ends = array.array('I'), [0]
    for row in features:
        # The empty name makes sure that there is a feature even if all rows are empty.
        hashes.extend(zlib.crc32(name.encode()) for name in ('', *row))
        ends.append(len(hashes))
    names, columns = np.unique(np.frombuffer(hashes, np.uint32), return_inverse=True)
    counts = sparse.csr_matrix((np.ones(len(columns)), columns, ends), (len(ends) - 1, len(names)))
    counts.sum_duplicates()
    rows_with = np.bincount(counts[:fitted].indices, minlength=len(names))
    return counts[:, rows_with >= 2]


def _measure(
    hits: Hits, fitted: Sequence[Record], scored: Sequence[Record]
) -> dict[str, np.ndarray]:
    """Returns whether each record is predicted correctly, by measure.

    `held_out` has the scored records, `cross_validated` the fitted ones in the order of the folds.
    """
    from sklearn.model_selection import GroupKFold

    rows = np.arange(len(fitted))
    folds = GroupKFold(FOLDS).split(rows, groups=splits.cluster_records(fitted))
    held_out = len(fitted) + np.arange(len(scored))
    return {
        'held_out': hits(rows, held_out) if len(scored) else np.zeros(0),
        'cross_validated': np.concatenate([hits(fit, score) for fit, score in folds]),
    }


def _select(records: Sequence[Record], keep: Callable[[Record], bool]) -> list[Record]:
    """Returns the records to keep, or none if they are too few to score."""
    selected = [record for record in records if keep(record)]
    return selected if len(selected) >= MIN_RECORDS else []


def _behavior(fitted: Sequence[Record], scored: Sequence[Record]) -> Results:
    """Predicts the behavior from each view's words with a linear classifier."""
    from sklearn.svm import LinearSVC

    fitted, scored = (_select(records, lambda r: bool(r.behavior)) for records in (fitted, scored))
    behaviors = np.array([r.behavior for r in (*fitted, *scored)])
    if not _can_measure(fitted) or len(set(behaviors[: len(fitted)])) < 2:
        return {}
    results = {}
    by_measure = {'held_out': behaviors[len(fitted) :], 'cross_validated': behaviors[: len(fitted)]}
    for measure, labels in by_measure.items():
        most_frequent = max(np.unique(labels, return_counts=True)[1], default=0)
        results['chance', measure] = np.full(len(labels), most_frequent / max(len(labels), 1))
    for view in VIEWS:
        features = (_with_pairs(_words(_view_text(r, view))) for r in (*fitted, *scored))
        counts = _count_features(features, len(fitted))

        def hits(fit, score, counts=counts):
            # A fold may have a single behavior, which the classifier refuses.
            if len(set(behaviors[fit])) < 2:
                return behaviors[score] == behaviors[fit[0]]
            model = LinearSVC(C=_PENALTY, max_iter=_ITERATIONS, random_state=0)
            model.fit(counts[fit], behaviors[fit])
            return model.predict(counts[score]) == behaviors[score]

        measured = _measure(hits, fitted, scored)
        results |= {(view, measure): correct for measure, correct in measured.items()}
    return results


def _answer(fitted: Sequence[Record], scored: Sequence[Record]) -> Results:
    """Predicts the answer with a linear ranking of the options.

    The ranking is fitted to the differences between the correct option and each wrong one.
    """
    from sklearn.svm import LinearSVC

    fitted, scored = (
        _select(records, lambda r: r.answer is not None) for records in (fitted, scored)
    )
    if not _can_measure(fitted):
        return {}
    records = [*fitted, *scored]
    # Options of all records stand below each other: record i has rows first[i] to first[i + 1].
    first = np.cumsum([0, *(len(r.options) for r in records)])
    answers = first[:-1] + np.array([r.answer for r in records])
    chance = np.array([1 / len(r.options) for r in records])
    results = {
        ('chance', 'held_out'): chance[len(fitted) :],
        ('chance', 'cross_validated'): chance[: len(fitted)],
    }
    for view in VIEWS:
        features = (option for r in records for option in _option_features(r, view))
        counts = _count_features(features, first[len(fitted)])

        def hits(fit, score, counts=counts):
            pairs = [
                (answers[i], option)
                for i in fit
                for option in range(first[i], first[i + 1])
                if option != answers[i]
            ]
            correct, wrong = np.array(pairs).T
            # Every second difference is turned around, so that both classes occur.
            sign = np.where(np.arange(len(pairs)) % 2, 1, -1)
            model = LinearSVC(C=_PENALTY, max_iter=_ITERATIONS, random_state=0, fit_intercept=False)
            model.fit((counts[correct] - counts[wrong]).multiply(sign[:, None]).tocsr(), sign)
            scores = counts @ model.coef_[0]
            return np.array(
                [first[i] + scores[first[i] : first[i + 1]].argmax() == answers[i] for i in score]
            )

        measured = _measure(hits, fitted, scored)
        results |= {(view, measure): correct for measure, correct in measured.items()}
    return results


def _means(results: Sequence[Results]) -> dict[str, dict[str, float | None]] | None:
    """Returns the means over the records of all results; None if there are none."""
    results = [result for result in results if result]
    if not results:
        return None
    means: dict[str, dict[str, float | None]] = {}
    for name, measure in itertools.product(('chance', *VIEWS), MEASURES):
        values = np.concatenate([result[name, measure] for result in results])
        means.setdefault(name, {})[measure] = (
            round(float(values.mean()), 4) if len(values) else None
        )
    return means
