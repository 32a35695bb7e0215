"""Reads the evaluations under review: the records, and the answer of each system to each."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.commands import eval_folder
from bsft_jax.data import eval_records
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.records.digest import digest_of_words
from bsft_jax.records.record import Record, cluster_of, option_words

# The answers of `generate`, beside the predictions of the same model.
GENERATED = 'answers.jsonl'
_STEM = re.compile(r'\s*Answer:\s*')
_LETTER = re.compile(r'\s*Answer:\s*([A-Z])\.(?=\s|$)')


@dataclasses.dataclass(frozen=True)
class System:
    """Holds one evaluation under review.

    Attributes:
      name: a letter, `A` for the first.
      folder: the folder as it was named.
      policy, prompt: settings of the evaluation.
      answers: `options` for the words of the chosen option, `generated` for those of `generate`.
      digest: SHA-256 of the file that the answers are from.
      generated: text by record id; empty for `options`.
      rows: rows of `predictions.jsonl` by record id.
      letters: whether generated answers name options by their letters.
    """

    name: str
    folder: str
    policy: str
    prompt: str
    answers: str
    digest: str
    generated: Mapping[str, str] = dataclasses.field(repr=False)
    rows: Mapping[str, dict[str, Any]] = dataclasses.field(repr=False)
    letters: bool = False

    def answer(self, record: Record) -> str:
        """Returns the answer to a record, as a clinician reads it."""
        if self.answers == 'options':
            return record.options[self.rows[record.id]['prediction']]
        text = self.generated[record.id]
        letter = _LETTER.match(text) if self.letters else None
        index = string.ascii_uppercase.index(letter[1]) if letter else len(record.options)
        if letter and index < len(record.options):
            return f'{option_words(record.options[index])}.{text[letter.end() :]}'.strip()
        return _STEM.sub('', text, count=1).strip()


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Holds a record that may be reviewed, with the answers of all systems in their order."""

    record: Record
    case: str
    category: str
    group: str
    answers: tuple[str, ...]

    def differs(self, pair: tuple[int, int]) -> bool:
        """Returns whether two systems answer in different words."""
        first, second = (' '.join(self.answers[system].split()) for system in pair)
        return first != second


@dataclasses.dataclass(frozen=True)
class Pool:
    """Holds what items are drawn from.

    Attributes:
      systems: the evaluations.
      candidates: the records that all systems answer, in the order of their ids.
      source: name of the data source. `split`: its split.
      left_out: records that some system lacks an answer to.
    """

    systems: tuple[System, ...]
    candidates: tuple[Candidate, ...]
    source: str
    split: str
    left_out: int


def read_pool(folders: Sequence[str], data: str = '') -> Pool:
    """Reads evaluations of the same records, and the records.

    Args:
      folders: folders of evaluations, `WORKDIR/eval/NAME`.
      data: data source of the records; empty for that of the first evaluation.

    Raises UserError for a folder without an evaluation, for one that is named twice, and for
    records that differ between the evaluations or from those of the source.
    """
    if not 2 <= len(folders) <= len(string.ascii_uppercase):
        raise UserError(f'names {len(folders)} evaluations', where='--evals', fix='name 2 to 26')
    resolved = [pathlib.Path(folder).resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise UserError('is named twice', where=f'--evals={folder}')
    read = [
        eval_folder.read(path, f'--evals={f}') for path, f in zip(resolved, folders, strict=True)
    ]
    systems = tuple(
        _system(name, folder, path, *evaluation)
        for name, folder, path, evaluation in zip(
            string.ascii_uppercase, folders, resolved, read, strict=False
        )
    )
    for system in systems[1:]:
        if system.answers != systems[0].answers:
            raise UserError(
                f'only one of {systems[0].folder} and {system.folder} has {GENERATED}, so their '
                'answers tell them apart',
                where='--evals',
                fix='generate the answers of all',
            )
    source, split = data or read[0][1].get('data', ''), read[0][1]['split']
    if not source:
        raise UserError('flag --data is missing', fix='name the data source of the evaluations')
    records = {record.id: record for record in eval_records.load_scorable(source, split)}
    shared = sorted(set.intersection(*({*s.rows} for s in systems)))
    for system in systems:
        _check_records(system, records, source, split)
    if systems[0].answers == 'generated':
        shared = [id for id in shared if all(id in system.generated for system in systems)]
    candidates = tuple(_candidate(records[id], systems) for id in shared)
    most = len(set.union(*({*s.rows} for s in systems)))
    return Pool(systems, candidates, source, split, most - len(candidates))


def _candidate(record: Record, systems: Sequence[System]) -> Candidate:
    row = systems[0].rows[record.id]
    return Candidate(
        record=record,
        case=cluster_of(row),
        category=metrics_lib.category_of(row),
        group=row.get('group') or '',
        answers=tuple(system.answer(record) for system in systems),
    )


def _system(
    name: str,
    folder: str,
    path: pathlib.Path,
    rows: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
) -> System:
    generated_file = path / GENERATED
    has_generated = generated_file.is_file()
    file = generated_file if has_generated else path / 'predictions.jsonl'
    by_id = {row['id']: row for row in rows if row.get('prediction') is not None}
    if len(by_id) < len(rows) or not all(row.get('digest') for row in rows):
        raise UserError(
            'has rows without an id of their own, a prediction or a digest',
            where=f'--evals={folder}',
            fix='evaluate again',
        )
    return System(
        name=name,
        folder=folder,
        policy=settings['policy'],
        prompt=settings['prompt'],
        answers='generated' if has_generated else 'options',
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
        generated=_read_generated(generated_file) if has_generated else {},
        rows=by_id,
        letters=settings.get('answer_format') == 'letter',
    )


def _read_generated(path: pathlib.Path) -> dict[str, str]:
    """Returns the texts of a file that `generate` wrote, without records that were too long."""
    try:
        rows = files.read_lines(path)
        texts = {row['id']: row['text'] for row in rows if 'error' not in row}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            'is not what generate prints', where=str(path), fix='generate the answers again'
        ) from error
    if not all(isinstance(text, str) for text in texts.values()):
        raise UserError(
            'has an answer that is no text', where=str(path), fix='generate the answers again'
        )
    return texts


def _check_records(system: System, records: Mapping[str, Record], source: str, split: str) -> None:
    """Raises UserError unless every row is of a record of the source, in the same words."""
    for id, row in system.rows.items():
        record = records.get(id)
        if record is None or digest_of_words(record) != row['digest']:
            raise UserError(
                f'record {id!r} is not in the split {split!r} of {source}, or in other words',
                where=f'--evals={system.folder}',
                fix='name the evaluated records by --data',
            )
