"""Makes what the reader of cases shows: each record with what each evaluation did to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.records.record import Record
from bsft_jax.report import dial, html
from bsft_jax.report.evaluated import Evaluated

# Two answers this close in probability are a low margin.
LOW_MARGIN = 0.1
# Bytes that the words of records may take; with more, those of the worst cases are kept.
MAX_WORDS = 6_000_000
# What is wrong with an answer, in the order of the filters: name → (label, meaning).
FLAGS = {
    'wrong': ('wrong', 'the answer is not the right one'),
    'uninvited': ('uninvited', 'it stepped in further than the label asks'),
    'missed': ('missed', 'something was due and it did not raise it'),
    'uninvited_5': (
        'uninvited at 5 %',
        'at the best setting of the dial within 5 % uninvited it would step in further than the '
        'label asks',
    ),
    'missed_5': (
        'missed at 5 %',
        'at that setting it would not raise what was due',
    ),
    'low': ('low margin', f'the two best answers are less than {LOW_MARGIN} apart in probability'),
    'apart': ('twins apart', 'of two twins one is answered right and the other wrong'),
}


def reader_data(
    evaluations: Sequence[Evaluated], max_words: int = MAX_WORDS
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the records and, by evaluation, what was done to them.

    Returns:
      records: fields of the rows of predictions.jsonl that do not depend on the model, and `turns`
        ([role, name, text] each) and `options` where the words are at hand and fit `max_words`
        bytes, worst cases first.
      evaluations: by evaluation its `name`, `branches` (names), `behaviors` (names) and `rows`:
        `record` (index), `prediction`, `branch` (index of the one that answered, -1 for a mean of
        all), `right` (probability of the right answer), `margin`, `flags`, `options` (probability
        of each by branch) and `choice` (probability of each behavior, or null).
    """
    index: dict[tuple[str, str], int] = {}
    records: list[dict[str, Any]] = []
    words: dict[int, Record] = {}
    shown = []
    for evaluated in evaluations:
        rows = evaluated.scored
        entries, policy = [], evaluated.metrics['policy']
        for row, flags in zip(rows, _flags(evaluated), strict=True):
            key = str(row['id']), str(row.get('digest'))
            number = index.setdefault(key, len(records))
            if number == len(records):
                records.append(_record(row))
            if record := evaluated.records.get(row['id']):
                words[number] = record
            entry = {
                'record': number,
                'prediction': row['prediction'],
                **_probabilities(row, policy),
            }
            if entry['margin'] is not None and entry['margin'] < LOW_MARGIN:
                flags.append('low')
            entries.append({**entry, 'flags': [name for name in FLAGS if name in flags]})
        first = rows[0]
        shown.append(
            {
                'name': evaluated.name,
                'branches': list(first.get('option_logprobs') or ()),
                'behaviors': list(first.get('behavior_logprobs') or ()),
                'rows': sorted(entries, key=_badness),
            }
        )
    _add_words(records, words, shown, max_words)
    return records, shown


def _badness(entry: Mapping[str, Any]) -> tuple[bool, float]:
    """Returns a key that puts wrong answers first, of these the most confident."""
    right = entry['right']
    return 'wrong' not in entry['flags'], 0.0 if right is None else right


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        'id': str(row['id']),
        'case': row.get('case_id') or '',
        'pair': row.get('pair_id') or '',
        'category': row.get('category') or row.get('group') or '',
        'group': row.get('group') or '',
        'label': row.get('behavior') or '',
        'difficulty': row.get('difficulty'),
        'answer': row['answer'],
        'stands': list(row.get('option_behaviors') or ()),
    }


def _flags(evaluated: Evaluated) -> list[list[str]]:
    """Returns what is wrong with each answer; rates count the same records.

    A twin whose other half was left out has none.
    """
    rows, levels = evaluated.scored, evaluated.levels
    nowhere_R = [False] * len(rows)
    over_R, missed_R = dial.actions_within(evaluated) or (nowhere_R, nowhere_R)
    twins: dict[str, list[bool]] = {}
    for row in rows:
        if row.get('pair_id'):
            twins.setdefault(row['pair_id'], []).append(row['answer'] == row['prediction'])
    lowest = min(levels.values()) if len(levels) > 1 else 0.0
    highest = max(levels.values(), default=1.0)
    found = []
    for row, over, missed in zip(rows, over_R, missed_R, strict=True):
        flags = [] if row['answer'] == row['prediction'] else ['wrong']
        if row.get('behavior') and row.get('option_behaviors'):
            label = levels.get(row['behavior'], 0.0)
            level = levels.get(row['option_behaviors'][row['prediction']], 0.0)
            if level > label and label < highest:
                flags.append('uninvited')
            if level < label and label > lowest:
                flags.append('missed')
        flags += ['uninvited_5'] * bool(over) + ['missed_5'] * bool(missed)
        pair = twins.get(row.get('pair_id') or '', [])
        if len(pair) == 2 and pair[0] != pair[1]:
            flags.append('apart')
        found.append(flags)
    return found


def _probabilities(row: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """Returns the probabilities of a row, rounded as they are shown, and what follows from them."""
    of_option = row.get('option_logprobs') or {}
    of_behavior = row.get('behavior_logprobs') or {}
    names = list(of_option)
    option_WK = [_softmax(scores) for scores in of_option.values()]
    choice_n = _softmax(list(of_behavior.values())) if of_behavior else None
    if row.get('behavior_prediction'):
        branch = names.index(row['behavior_prediction'])
    elif policy == 'mixture' or not names:
        branch = -1
    else:
        # A model without a choice answers after its constant prefix, the last, if it has one.
        branch = 0 if policy == 'none' else len(names) - 1
    if branch >= 0:
        taken_K = option_WK[branch]
    elif choice_n is not None:
        taken_K = choice_n @ np.stack([option_WK[names.index(name)] for name in of_behavior])
    else:
        taken_K = None
    best_2 = None if taken_K is None else np.sort(taken_K)[::-1][:2]
    return {
        'branch': branch,
        'right': None if taken_K is None else _round(taken_K[row['answer']]),
        'margin': None if best_2 is None else _round(best_2[0] - best_2[-1]),
        'options': [[_round(p) for p in option_K] for option_K in option_WK],
        'choice': None if choice_n is None else [_round(p) for p in choice_n],
    }


def _softmax(scores: Sequence[float]) -> np.ndarray:
    logit_K = np.asarray(scores, np.float64)
    prob_K = np.exp(logit_K - logit_K.max())
    return prob_K / prob_K.sum()


def _round(value: float) -> float:
    """Returns a number that has the three decimals that `html.number` shows."""
    return float(html.number(float(value)))


def _add_words(
    records: Sequence[dict[str, Any]],
    words: Mapping[int, Record],
    shown: Sequence[Mapping[str, Any]],
    most: int,
) -> None:
    """Adds `turns` and `options` to records, worst cases with their twins first."""
    twins: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        if record['pair']:
            twins.setdefault(record['pair'], []).append(number)
    worst = [entry['record'] for entries in shown for entry in entries['rows']]
    order = [n for first in worst for n in (first, *twins.get(records[first]['pair'], ()))]
    size = 0
    for number in dict.fromkeys(order):
        if number not in words:
            continue
        record = words[number]
        added = {
            'turns': [[turn.role, turn.name, turn.content] for turn in record.messages],
            'options': list(record.options),
        }
        size += len(json.dumps(added, ensure_ascii=False).encode('utf-8', 'surrogatepass'))
        if size > most:
            break
        records[number].update(added)
