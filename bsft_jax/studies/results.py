"""Reads and writes the files of a study's folder: study.json, metrics of points, results.jsonl."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bsft_jax import config as config_lib
from bsft_jax import files
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import SPLITS
from bsft_jax.studies.commands import base_workdir, evaluation_name
from bsft_jax.studies.study import (
    Point,
    Study,
    base_config,
    config_hash,
    json_digest,
    make_point,
    with_shared_workdirs,
)


def create_study_dir(study: Study, directory: pathlib.Path) -> None:
    """Creates the study's folder with `study.json`, or checks an existing one.

    `study.json` holds the endpoint and the rate of the second one, which are thereby named before
    there are results, and digests of the data sources.

    Raises:
      UserError: the folder belongs to another study or endpoint, or files of records have changed.
    """
    points = [make_point(study, arm, study.seeds[0], None) for arm in study.arms]
    named = {'study': study.name, 'endpoint': study.endpoint, 'over_rate': study.over_rate}
    write_study_file(directory, named, {point.config.data.source for point in points})


def write_study_file(
    directory: pathlib.Path, named: Mapping[str, Any], data_sources: Collection[str]
) -> None:
    """Writes `study.json`, or checks an existing one against it.

    Args:
      directory: folder of the study; created if it does not exist.
      named: `study`, `endpoint`, and other choices that are made before there are results; an older
        file may lack the last.
      data_sources: sources whose records must stay the same.

    Raises:
      UserError: the folder belongs to another study or another choice, or files of records have
        changed.
    """
    path = directory / 'study.json'
    current = json.loads(json.dumps(named))
    old = files.read_json(path) if path.is_file() else {}
    if old and not (isinstance(old, dict) and old.keys() >= {'study', 'endpoint'}):
        raise UserError('is not the file of a study', where=str(path), fix='name a new --workdir')
    if old and (old['study'], old['endpoint']) != (current['study'], current['endpoint']):
        raise UserError(
            f'was named before there were results: {old["study"]}, {old["endpoint"]}; '
            f'now it is {current["study"]}, {current["endpoint"]}',
            where=f'the endpoint in {directory}',
            fix='name a new --workdir',
        )
    for name in current.keys() - {'study', 'endpoint'}:
        if old.get(name, current[name]) != current[name]:
            raise UserError(
                f'was named before there were results: {old[name]}; now it is {current[name]}',
                where=f'{name} of the study in {directory}',
                fix='name a new --workdir',
            )
    old_digests, digests = old.get('records', {}), _source_digests(data_sources)
    for source, digest in digests.items():
        if old_digests.get(source, digest) != digest:
            raise UserError(
                f'other records than those the study in {directory} began with',
                where=source,
                fix='name a new --workdir',
            )
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {**current, 'records': {**old_digests, **digests}})


def _source_digests(data_sources: Collection[str]) -> dict[str, str]:
    """Returns a digest of the records of each data source.

    The records of hub and TFDS sources are not read; their digest never changes.
    """
    return {
        source: json_digest(
            [
                sources.fingerprint(part, split)
                for part, _ in sources.parse_mixture(source)
                for split in SPLITS
            ]
        )
        for source in sorted(data_sources)
    }


def has_config_of(point: Point, directory: pathlib.Path) -> bool:
    """Returns whether the point's workdir holds a run with the point's config."""
    workdir = directory / point.workdir
    return (workdir / 'config.json').is_file() and (
        config_hash(config_lib.read_workdir(workdir)) == point.hash
    )


def read_metrics(directory: pathlib.Path, workdir: str, name: str) -> dict[str, Any] | None:
    """Returns the metrics.json of the evaluation `name`, or None without one."""
    path = directory / workdir / 'eval' / name / 'metrics.json'
    if not path.is_file():
        return None
    metrics = files.read_json(path)
    if not (isinstance(metrics, dict) and metrics.keys() >= {'overall', 'policy', 'prompt'}):
        raise UserError(
            'holds no metrics of an evaluation', where=str(path), fix='delete it and start again'
        )
    return metrics


def point_metrics(
    study: Study, point: Point, directory: pathlib.Path, split: str
) -> dict[str, Any] | None:
    """Returns the metrics of a point on a split.

    None when they do not exist or the run in the point's workdir has another config.
    """
    metrics = read_metrics(directory, point.workdir, evaluation_name(study, split, 'auto'))
    return metrics if metrics and has_config_of(point, directory) else None


def remove_stale_metrics(point: Point, directory: pathlib.Path) -> None:
    """Removes metrics of a run with another config, which is about to be trained over."""
    if not has_config_of(point, directory):
        for path in (directory / point.workdir).glob('eval/*/metrics.json'):
            path.unlink()


def write_results(
    study: Study, points: Sequence[Point], directory: pathlib.Path
) -> list[dict[str, Any]]:
    """Writes `results.jsonl`, a line per finished evaluation, and returns its rows.

    The file is written atomically; none is written without a result.
    """
    rows, name = [], evaluation_name(study, 'test', 'auto')
    for point in with_shared_workdirs(points):
        if metrics := point_metrics(study, point, directory, 'test'):
            rows.append(_result_row(study, point, point.workdir, name, metrics))
    workdir = base_workdir(base_config(study))
    for prompt in study.base_prompts:
        name = evaluation_name(study, 'test', prompt)
        if metrics := read_metrics(directory, workdir, name):
            rows.append(_result_row(study, None, workdir, name, metrics))
    if rows:
        directory.mkdir(parents=True, exist_ok=True)
        files.write_lines(directory / 'results.jsonl', rows)
    return rows


def _result_row(
    study: Study, point: Point | None, workdir: str, name: str, metrics: dict[str, Any]
) -> dict[str, Any]:
    return {
        'study': study.name,
        'point': pathlib.Path(workdir).name,
        'arm': point.arm if point else 'base',
        'seed': point.seed if point else None,
        'evaluation': {'name': name, 'policy': metrics['policy'], 'prompt': metrics['prompt']},
        'config': point.config.to_dict() if point else None,
        'workdir': workdir,
        'metrics': metrics,
    }
