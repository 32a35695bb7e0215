"""Macro-F1 as bsft_jax computes it, with the standard library alone."""

import math
from collections.abc import Iterable


def macro_f1(items: Iterable[tuple[str, int, int | None] | None]) -> float:
    """Returns the unweighted mean, over categories, of each category's macro-F1.

    The labels of a category are the option indices that occur in it as an answer or a prediction.
    NaN stands for no item at all.

    Args:
      items: category, index of the right option and index of the chosen one. An index of None, for
        a reply that names no option, counts against the right option and is no label itself.
        Items that are None are left out.
    """
    counts: dict[str, dict[int, list[int]]] = {}
    for category, answer, prediction in filter(None, items):
        of_label = counts.setdefault(category, {})
        # Right predictions, and answers plus predictions.
        of_label.setdefault(answer, [0, 0])[1] += 1
        if prediction is not None:
            of_label.setdefault(prediction, [0, 0])[1] += 1
            of_label[prediction][0] += prediction == answer
    scores = [
        sum(2 * hits / support for hits, support in of_label.values()) / len(of_label)
        for of_label in counts.values()
    ]
    return sum(scores) / len(scores) if scores else math.nan
