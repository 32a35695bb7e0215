"""Tests confidence intervals and p-values."""

import time

import numpy as np
import pytest

from bsft_jax.evaluation import metrics, statistics


def test_cluster_ids_keep_nameless_records_apart():
    assert list(statistics.cluster_ids(['a', '', 'b', 'a', ''])) == [0, 1, 2, 0, 3]


def test_whole_clusters_are_drawn():
    clusters = np.array([0, 0, 0, 1, 1])
    cells = np.array([0, 0, 2, 2, 3])
    sums = statistics.bootstrap_sums(clusters, cells, 5, resamples=500)
    allowed = {(4, 0, 2, 0, 0), (2, 0, 2, 1, 0), (0, 0, 2, 2, 0)}
    assert {tuple(row) for row in sums.astype(int)} == allowed


def test_draws_in_chunks_are_complete_and_seeded(monkeypatch):
    clusters, cells = np.arange(50), np.arange(50) % 7
    one = statistics.bootstrap_sums(clusters, cells, 7, resamples=30, seed=1)
    assert (one.sum(1) == 50).all()
    assert (one == statistics.bootstrap_sums(clusters, cells, 7, resamples=30, seed=1)).all()
    assert (one != statistics.bootstrap_sums(clusters, cells, 7, resamples=30, seed=2)).any()
    monkeypatch.setattr(statistics, '_MAX_DRAWS_PER_CHUNK', 120)
    assert (one == statistics.bootstrap_sums(clusters, cells, 7, resamples=30, seed=1)).all()


def test_interval_of_an_accuracy_has_the_width_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.7
    sums = statistics.bootstrap_sums(np.arange(1000), right.astype(int), 2, resamples=2000)
    low, high = statistics.percentile_interval(sums[:, 1] / sums.sum(1))
    assert low < right.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 1000), rel=0.1)


def test_the_interval_widens_when_records_of_a_case_agree():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(200) < 0.7, 10).astype(int)

    def width(clusters):
        sums = statistics.bootstrap_sums(clusters, right, 2)
        low, high = statistics.percentile_interval(sums[:, 1] / sums.sum(1))
        return high - low

    assert width(np.repeat(np.arange(200), 10)) > 2.5 * width(np.arange(2000))


def test_missing_values_are_left_out():
    assert statistics.percentile_interval(np.full(4, np.nan)) is None
    assert statistics.percentile_interval(np.array([np.nan, 1.0, 1.0])) == [1.0, 1.0]
    assert statistics.nan_mean([np.array([1.0, np.nan]), np.array([3.0, 5.0])]).tolist() == [
        2.0,
        5.0,
    ]
    assert np.isnan(statistics.nan_mean(np.array([[np.nan]]))).all()


def test_metrics_of_two_thousand_records_take_well_under_a_second():
    rng = np.random.default_rng(0)
    rows = [
        {
            'case_id': f'case-{n // 2}',
            'category': 'omission_detection' if n % 2 else 'temporal_ordering',
            'answer': int(rng.integers(4)),
            'prediction': int(rng.integers(4)),
        }
        for n in range(2000)
    ]
    start = time.process_time()
    result = metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')
    assert time.process_time() - start < 1.5
    assert result['overall']['cases'] == 1000
    low, high = result['overall']['macro_f1_interval']
    assert low < result['overall']['macro_f1'] < high and high - low < 0.1
    assert result == metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')
    other = metrics.metrics_from_predictions(rows, policy='auto', prompt='plain', seed=1)
    assert other['overall']['macro_f1_interval'] != result['overall']['macro_f1_interval']


def test_holm_against_hand_computed_values():
    assert statistics.holm_adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert statistics.holm_adjust([0.6, 0.5]) == [1.0, 1.0]
    assert statistics.holm_adjust([]) == []


def test_two_sided_p():
    assert statistics.two_sided_p(np.array([-1.0, 1, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(0.2)
    assert statistics.two_sided_p(-np.arange(1.0, 11.0)) == pytest.approx(0.1)
    assert statistics.two_sided_p(np.array([np.nan, 1.0, 1.0, 1.0, 1.0])) == 0.25
    assert statistics.two_sided_p(np.zeros(4)) == statistics.two_sided_p(np.full(4, np.nan)) == 1.0
