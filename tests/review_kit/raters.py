"""Files of simulated raters, in the layout in which a page saves them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bsft_jax.review_kit import page, wording
from bsft_jax.review_kit.ratings import FILE_KIND, checksum

# Says what a rater thinks of a comparison: a system's name, `tie` or `neither`.
Judge = Callable[[np.random.Generator, int, Mapping[str, Any]], str]


def planted(rate: float, ties: float = 0.0) -> Judge:
    """Returns a judge that prefers a pair's first system at this rate where there is no tie."""

    def judge(rng, comparison, entry):
        if rng.random() < ties:
            return str(rng.choice(['tie', 'neither']))
        return entry['systems'][int(rng.random() >= rate)]

    return judge


def rater_file(key: Mapping[str, Any], rater: int, judge: Judge, seed: int = 0) -> dict[str, Any]:
    """Returns the file of a rater that passes all attention items and is consistent."""
    rng = np.random.default_rng((seed, rater))
    entry = key['pages'][rater - 1]
    opinions: dict[int, tuple] = {}
    ratings = []
    for screen in entry['screens']:
        if screen['kind'] == 'check':
            answers = [dict.fromkeys(scale_names(), 1) for _ in range(2)]
            choice = screen['expected']
        else:
            number = screen['comparison']
            if number not in opinions:
                comparison = key['comparisons'][number]
                scales = {
                    system: {name: int(rng.integers(1, 6)) for name in scale_names()}
                    for system in comparison['systems']
                }
                opinions[number] = judge(rng, number, comparison), scales
            choice, scales = opinions[number]
            answers = [dict(scales[system]) for system in screen['shown']]
            choice = dict(zip(screen['shown'], ('first', 'second'), strict=True)).get(
                choice, choice
            )
        ratings.append(
            {
                'screen': screen['screen'],
                'answers': answers,
                'preference': choice,
                'comment': '',
                'seconds': int(rng.integers(20, 90)),
            }
        )
    file = {
        'format': page.FORMAT,
        'kind': FILE_KIND,
        'study': key['study'],
        'rater': rater,
        'page': entry['page'],
        'complete': True,
        'ratings': ratings,
    }
    return file | {'checksum': checksum(file)}


def scale_names() -> list[str]:
    """Returns the names of the scales."""
    return [scale.name for scale in wording.SCALES]


def write_files(
    folder: pathlib.Path, key: Mapping[str, Any], judge: Judge, seed: int = 0
) -> list[str]:
    """Writes the files of all raters, and returns their paths."""
    paths = []
    for rater in range(1, key['raters'] + 1):
        path = folder / f'rater-{rater}.json'
        path.write_text(json.dumps(rater_file(key, rater, judge, seed), indent=1))
        paths.append(str(path))
    return paths
