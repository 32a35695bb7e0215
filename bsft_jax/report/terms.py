"""Explains the terms of a page where they stand."""

from __future__ import annotations

from html import escape

from bsft_jax.report import columns

# Text of a header or figure → what it means, without a full stop; those of columns are added.
_MEANINGS = {
    'macro-F1': 'F1 of each answer letter, averaged over the letters, then over the categories; 1 '
    'is perfect. Rare answers weigh as much as frequent ones',
    'overall': 'unweighted mean of macro-F1 over all categories',
    'reactive': 'tasks in which the model should answer what was asked, and no more',
    'bridging': 'tasks between the two: the question touches what was overlooked',
    'proactive': 'tasks in which the model should raise what nobody asked about',
    '95 %': 'interval that holds the true value in 95 of 100 repetitions with other cases of the '
    'same kind; it draws whole cases, so one case has none',
    'accuracy': 'share of records answered right',
    'n': 'number of records',
    'cases': 'records of one case share a patient or a note and count as one unit in intervals',
    'dial': 'a number added to the log-odds of stepping in: higher means the model raises more. 0 '
    'is the model as it was trained',
    'uninvited': 'share of the records in which the model should keep to the question and raised '
    'something all the same (over-intervention)',
    'missed': 'share of the records in which something was due and the model did not raise it',
    'alerts / 100': 'answers that step in, for every 100 cases; a case may have several',
    'ppv': 'share of the answers that step in which were due (positive predictive value)',
    'cost / 100': 'cost of a miss × misses + cost of a false alarm × false alarms, for every 100 '
    'cases',
    'margin': 'probability of the best answer minus that of the second best',
    'twins': 'two records that differ in one fact, so that a different answer is right; the share '
    'of pairs with both right',
    'calibration': 'whether things that the model gives 70 % happen in 70 of 100 records',
    'ece': 'expected calibration error: how far stated probabilities and observed shares lie '
    'apart, on average over the records; 0 is best',
    'brier': 'mean squared error of the probability of stepping in; 0 is best',
    'aurc': 'share of wrong answers among the surest, averaged over how many are kept; 0 is best',
    'as sure as': 'probability that the model gives the least sure of these answers',
    'answered': 'share of the records that are answered, the surest; the rest are left to people',
    'policy': 'how the behavior was chosen: auto takes what the model itself finds most probable',
    'p': 'how often a difference at least as large would arise by chance alone',
    'p (Holm)': 'p, adjusted for the number of comparisons',
}


def meanings() -> dict[str, str]:
    """Returns the meaning of each term, without a full stop."""
    return {**{column.header: column.meaning for column in columns.COLUMNS}, **_MEANINGS}


def term(name: str, shown: str = '') -> str:
    """Returns a term as HTML: reachable by keyboard and with its meaning, if it has one.

    Args:
      name: one of `meanings`, or any other text.
      shown: what is written in its place; empty for the name.
    """
    text = escape(shown or name)
    meaning = meanings().get(name)
    if meaning is None:
        return text
    return f'<abbr class="term" tabindex="0" title="{escape(meaning)}">{text}</abbr>'
