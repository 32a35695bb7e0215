"""Tests that forecasts hit planted values, cover as often as they say, and are refused."""

import dataclasses

import numpy as np
import pytest

from bsft_jax.scaling import forecast
from tests.scaling import planted

LARGEST = (3e9, 4e11)


def test_a_planted_surface_is_forecast_exactly():
    found, refused = forecast.forecast_loss(planted.iso_flop(), *LARGEST, resamples=200)
    assert not refused and found.keys() == {'approach3', 'vpnls'}
    for method in found.values():
        assert method['loss'] == pytest.approx(planted.loss_of(*LARGEST), rel=1e-4)
        low, high = method['interval']
        assert low <= method['loss'] <= high


def test_intervals_hold_a_further_run_about_as_often_as_they_say():
    noise, studies = 0.01, 40
    rng = np.random.default_rng(7)
    inside = {'approach3': 0, 'vpnls': 0}
    for seed in range(studies):
        points = planted.iso_flop(noise=noise, seed=seed)
        found, _ = forecast.forecast_loss(points, *LARGEST, resamples=200)
        run = planted.loss_of(*LARGEST) * np.exp(noise * rng.standard_normal())
        for method, values in found.items():
            low, high = values['interval']
            inside[method] += low <= run <= high
            # Neither so wide that it says nothing.
            assert high / low < 1.2
    assert all(count >= 0.88 * studies for count in inside.values()), inside


def test_an_exponent_that_is_not_determined_gives_no_forecast():
    rows = planted.iso_flop()
    # The loss depends on the data alone.
    flat = dataclasses.replace(rows, loss_P=1.0 + 50 * rows.tokens_P**-0.2)
    found, refused = forecast.forecast_loss(flat, *LARGEST, resamples=200)
    assert found == {} and refused.keys() == {'approach3', 'vpnls'}
    assert all('not identified' in reason for reason in refused.values())


def score_rows(noise=0.0, seed=0):
    tokens = np.geomspace(1e4, 3e6, 12)
    error = noise * np.random.default_rng(seed).standard_normal(12)
    gains = 0.2 - 5.0 * tokens**-0.4 + error
    return [
        {'tokens': float(x), 'params': 1e6, 'seed': '0', 'where': '', 'gain': float(y)}
        for x, y in zip(tokens, gains, strict=True)
    ]


def test_a_gain_is_forecast_at_a_number_of_tokens():
    rows = [{**row, 'seed': str(i)} for i, row in enumerate(score_rows(noise=0.001))]
    found, refused = forecast.forecast_score(rows, 'gain', 'tokens', 1e7, resamples=200)
    value = found['saturating']
    assert not refused and value['gain'] == pytest.approx(0.2 - 5.0 * 1e7**-0.4, abs=0.003)
    low, high = value['interval']
    assert low < value['gain'] < high < low + 0.03


def test_a_gain_without_a_trend_gives_no_forecast():
    rows = [{**row, 'gain': 0.1} for row in score_rows()]
    found, refused = forecast.forecast_score(rows, 'gain', 'tokens', 1e7, resamples=200)
    assert found == {} and 'does not change' in refused['saturating']
