"""Resamples the macro-F1 of a study on two levels: seeds and whole cases.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

import numpy as np

from bsft_jax.evaluation import metrics, statistics
from bsft_jax.studies.pairing import Setting, SettingResults, SharedRecords, seed_order


def weighted_macro_f1(
    records: SharedRecords, row: SettingResults, weights_EU: np.ndarray
) -> np.ndarray:
    """Returns the macro-F1 float64[E, J, C] when each case counts as often as its weight.

    NaN where a category has no record.

    Args:
      records: the shared records.
      row: the predictions of a setting.
      weights_EU: number of times that each resample holds each case.
    """
    f1_EJC = np.empty((len(weights_EU), len(row.seeds), len(records.categories)))
    for c in range(len(records.categories)):
        in_category_R = records.category_R == c
        cases, case_R = np.unique(records.case_R[in_category_R], return_inverse=True)
        answer_R = records.answer_R[in_category_R]
        predictions_JR = row.predictions_JR[:, in_category_R]
        options = int(max(answer_R.max(), predictions_JR.max())) + 1
        for j, prediction_R in enumerate(predictions_JR):
            # One confusion matrix per case; a resample is a weighted sum of them.
            confusion_UKK = metrics.confusion_counts(
                answer_R, prediction_R, case_R, categories=len(cases), options=options
            )
            confusion_UZ = confusion_UKK.reshape(len(cases), -1).astype(np.float64)
            confusion_EZ = weights_EU[:, cases] @ confusion_UZ
            f1_EJC[:, j, c] = metrics.confusion_macro_f1(confusion_EZ.reshape(-1, options, options))
    return f1_EJC


def exact_macro_f1(records: SharedRecords, row: SettingResults) -> np.ndarray:
    """Returns the macro-F1 float64[C] of all cases, averaged over the seeds."""
    return weighted_macro_f1(records, row, np.ones((1, records.num_cases)))[0].mean(0)


def resampled_macro_f1(
    records: SharedRecords, rows: dict[Setting, SettingResults], resamples: int, seed: int
) -> dict[Setting, np.ndarray]:
    """Returns by setting the macro-F1 float64[E, C] of resampled cases, averaged over seeds drawn.

    All settings share the draws of the cases, and those with the same seeds share the draws of the
    seeds, so that differences between them are paired.
    """
    rng = np.random.default_rng(seed)
    weights_EU = statistics.resample_counts(rng, records.num_cases, resamples)
    seed_lists = sorted(
        {row.seeds for row in rows.values()}, key=lambda seeds: [seed_order(s) for s in seeds]
    )
    weights_EJ = {
        seeds: statistics.resample_counts(rng, len(seeds), resamples) for seeds in seed_lists
    }
    return {
        setting: np.einsum(
            'ej,ejc->ec', weights_EJ[row.seeds], weighted_macro_f1(records, row, weights_EU)
        )
        / len(row.seeds)
        for setting, row in rows.items()
    }
