"""Names, claims and fills the folder of an evaluation, `WORKDIR/eval/NAME`."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import files, places
from bsft_jax.data import generated, sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record
from bsft_jax.report import eval_page
from bsft_jax.report.evaluated import Evaluated

# What rows of predictions.jsonl and metrics.json say of generated answers.
GENERATED = 'generated'
# Longest part of an evaluation's name, in characters.
MAX_NAME_PART = 32


def check_place(workdir: str | pathlib.Path, name: str) -> None:
    """Raises UserError, before anything is read, where the results cannot be written.

    Args:
      workdir: folder whose `eval` gets the results.
      name: folder of the results, or '' while it is not known.
    """
    workdir = pathlib.Path(workdir)
    where, folder = f'--workdir={workdir}', workdir / 'eval'
    places.check_writable(folder, where)
    if name:
        places.check_writable(folder / name, f'--name={name}')
    places.check_unowned(workdir, 'workdir')
    if places.is_data_set(workdir):
        raise UserError('is a data set', where=where, fix='name another folder')


def claim(directory: pathlib.Path, stack: contextlib.ExitStack) -> None:
    """Keeps other processes from the folder of the results until `stack` ends.

    An empty folder does not stay. Raises UserError while another process writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stack.enter_context(places.exclusive(directory, str(directory)))
    # Only whoever holds the folder may remove it.
    stack.callback(_remove_empty, directory)


def _remove_empty(directory: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


def write(
    directory: pathlib.Path,
    rows: Sequence[dict],
    metrics: Mapping[str, Any],
    records: Sequence[Record] = (),
) -> None:
    """Writes `predictions.jsonl`, `metrics.json` and `report.html`.

    Args:
      directory: the folder.
      rows: the predictions.
      metrics: the metrics.
      records: the scored records. The page holds their words where a generator made them: those
        of other sources are written nowhere unless somebody asks for it.
    """
    # Metrics and a page of earlier predictions must not stand beside new ones.
    for name in ('metrics.json', eval_page.PAGE):
        (directory / name).unlink(missing_ok=True)
    files.write_lines(directory / 'predictions.jsonl', rows)
    files.write_json(directory / 'metrics.json', metrics)
    shown = {record.id: record for record in records} if may_hold_words(metrics['data']) else {}
    workdir = directory.resolve().parents[1]
    name = f'{workdir.name}/{directory.name}'
    evaluated = Evaluated(name, directory, rows, metrics, shown)
    eval_page.write_page(directory / eval_page.PAGE, f'Evaluation {name}', [evaluated])


def may_hold_words(source: str) -> bool:
    """Returns whether the words of a data source may be written: a generator made all of them."""
    return all(generated.is_generated(part) for part, _ in sources.parse_mixture(source))


def read(directory: str | pathlib.Path, where: str) -> tuple[list[dict], dict[str, Any]]:
    """Reads the rows of `predictions.jsonl` and the content of `metrics.json`.

    Raises UserError, with `where` as the flag that named the folder, unless it holds both.
    """
    directory = pathlib.Path(directory)
    paths = directory / 'predictions.jsonl', directory / 'metrics.json'
    if not all(path.is_file() for path in paths):
        raise UserError(
            'is not the folder of an evaluation (predictions.jsonl, metrics.json)',
            where=where,
            fix='name WORKDIR/eval/NAME',
        )
    metrics = files.read_json(paths[1])
    try:
        rows = files.read_lines(paths[0])
    except ValueError as error:
        raise UserError(
            f'not valid JSON ({error})', where=str(paths[0]), fix='evaluate again'
        ) from error
    if not _have_scores(rows):
        raise UserError('lacks scores of branches', where=str(paths[0]), fix='evaluate again')
    named = set(rows[0]['behavior_logprobs'] or ())
    if not _have_settings(metrics) or not named <= metrics['behaviors'].keys():
        raise UserError(
            'lacks settings of the evaluation', where=str(paths[1]), fix='evaluate again'
        )
    return rows, metrics


def _have_scores(rows: Sequence[Any]) -> bool:
    """Returns whether every row has the scores of the same branches."""
    try:
        names = {(*row['option_logprobs'], 0, *(row['behavior_logprobs'] or ())) for row in rows}
    except (KeyError, TypeError):
        return False
    return len(names) == 1


def _have_settings(metrics: Any) -> bool:
    needed = {'policy', 'prompt', 'split', 'behaviors'}
    return isinstance(metrics, dict) and metrics.keys() >= needed and bool(metrics['behaviors'])


def evaluation_name(
    parts: Sequence[str], settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> str:
    """Returns the default folder of an evaluation: `parts`, then settings that are not the default.

    A number follows its setting's name. A long text is cut to its end and a digest.
    """
    special = {
        key: value for key, value in settings.items() if value and value != defaults.get(key)
    }
    texts = [f'{k}{v}' if isinstance(v, int) else v for k, v in special.items()]
    return files.shorten_name('-'.join(map(name_part, [*parts, *texts])))


def name_part(text: str) -> str:
    """Returns a text as a part of a folder's name; a negative number keeps its sign as a word."""
    word = re.sub(r'[^\w.]+', '-', text.replace(':-', ':minus')).strip('-.')
    if len(word) > MAX_NAME_PART:
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        word = f'{word[-MAX_NAME_PART:].strip("-.")}-{digest}'
    return word
