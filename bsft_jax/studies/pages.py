"""Writes a page of evaluations, runs and studies from their folders: the work of `report`."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from bsft_jax import files, places
from bsft_jax.commands import eval_folder
from bsft_jax.data import eval_records, sources
from bsft_jax.errors import UserError, printable
from bsft_jax.records.digest import digest_of_words
from bsft_jax.records.record import Record
from bsft_jax.report import comparison, eval_page, study_page
from bsft_jax.report.evaluated import Evaluated
from bsft_jax.studies.compare import CompareOptions, compare_evaluations


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Describes a page.

    Attributes:
      folders: evaluations (`WORKDIR/eval/NAME`), runs or a study.
      output: the file.
      words: whether the page holds the words of the records.
    """

    folders: Sequence[str]
    output: str
    words: bool = True


def report_folders(options: ReportOptions) -> None:
    """Writes the page of all evaluations in the folders; of a study, those of each first seed.

    Words of records that are not found are left out with a line on stderr.

    Raises:
      UserError: a folder holds no evaluation, or the page cannot be written.
    """
    if not options.folders:
        raise UserError('no folder is named', fix='name an evaluation, a run or a study')
    places.check_writable(options.output, f'--output={options.output}', file=True)
    found = [directory for folder in options.folders for directory in _evaluations(folder)]
    directories = list(dict.fromkeys(directory.resolve() for directory in found))
    evaluations = [
        Evaluated(name, directory, *eval_folder.read(directory, str(directory)))
        for name, directory in zip(_names(directories), directories, strict=True)
    ]
    if options.words:
        evaluations = _with_records(evaluations)
    study, folder = None, pathlib.Path(options.folders[0])
    if len(options.folders) == 1 and _is_study(folder):
        study = study_page.parts(study_page.read_summary(folder), folder)
    eval_page.write_page(
        pathlib.Path(options.output),
        _title(options.folders, evaluations),
        evaluations,
        study=study or (),
        comparisons='' if study else _comparisons(evaluations),
    )


def _is_study(folder: pathlib.Path) -> bool:
    return (folder / 'results.jsonl').is_file()


def _evaluations(folder: str) -> list[pathlib.Path]:
    """Returns the folders of the evaluations in a folder."""
    path = pathlib.Path(folder)
    if (path / 'predictions.jsonl').is_file():
        return [path]
    if _is_study(path):
        first_seeds: dict[tuple[str, str], pathlib.Path] = {}
        for row in files.read_lines(path / 'results.jsonl'):
            name = row['evaluation']['name']
            first_seeds.setdefault((row['arm'], name), path / row['workdir'] / 'eval' / name)
        return list(first_seeds.values())
    paths = sorted(path.glob('eval/*/predictions.jsonl'))
    if not paths:
        raise UserError(
            'holds no evaluation (predictions.jsonl), run (eval/NAME) or study (results.jsonl)',
            where=folder,
            fix='name such a folder, or run evaluate first',
        )
    return [path.parent for path in paths]


def _names(directories: Sequence[pathlib.Path]) -> list[str]:
    """Returns the shortest names that tell the evaluations apart."""
    runs = [path.parents[1].name for path in directories]
    names = [path.name for path in directories]
    both = [f'{run}/{name}' for run, name in zip(runs, names, strict=True)]
    if len(directories) > 1:
        if len(set(runs)) == len(runs):
            return runs
        if len({path.parents[1] for path in directories}) == 1:
            return names
    return both if len(set(both)) == len(both) else [str(path) for path in directories]


def _title(folders: Sequence[str], evaluations: Sequence[Evaluated]) -> str:
    if len(folders) == 1 and not (pathlib.Path(folders[0]) / 'predictions.jsonl').is_file():
        kind = 'Study' if _is_study(pathlib.Path(folders[0])) else 'Run'
        return f'{kind} {pathlib.Path(folders[0]).resolve().name}'
    return f'Evaluation {evaluations[0].name}' if len(evaluations) == 1 else 'Evaluations compared'


def _with_records(evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    """Adds the records whose words are those that were scored."""
    loaded: dict[tuple[str, str], dict[str, Record]] = {}
    complete = []
    for evaluated in evaluations:
        key = evaluated.metrics.get('data') or '', evaluated.metrics['split']
        if key not in loaded:
            loaded[key] = _load_records(*key)
        digests = {row['id']: row.get('digest') for row in evaluated.predictions}
        records = {
            name: record
            for name, record in loaded[key].items()
            if name in digests and digest_of_words(record) == digests[name]
        }
        complete.append(dataclasses.replace(evaluated, records=records))
    return complete


def _load_records(source: str, split: str) -> dict[str, Record]:
    try:
        records = eval_records.scorable(sources.load_records(source, split), source)
    except (UserError, OSError) as error:
        line = f'words of the records are left out, their data set is not read: {error}'
        print(printable(line), file=sys.stderr)
        return {}
    return {record.id: record for record in records}


def _comparisons(evaluations: Sequence[Evaluated]) -> str:
    """Returns the section that compares the first evaluation with each other one."""
    if len(evaluations) < 2:
        return ''
    pairs: list[tuple[str, dict[str, Any] | str]] = []
    first = evaluations[0]
    for other in itertools.islice(evaluations, 1, None):
        title = f'{first.name} − {other.name}'
        try:
            options = CompareOptions(str(first.directory), str(other.directory))
            pairs.append((title, compare_evaluations(options)))
        except UserError as error:
            pairs.append((title, str(error)))
    return comparison.comparison_section(pairs)
