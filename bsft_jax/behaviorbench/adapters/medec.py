"""MEDEC (github.com/abachaa/MEDEC, CC BY 4.0): clinical notes, some with one wrong sentence.

A note with an error gives twins: the note as it is, and its own corrected text, where nothing is wrong. Once the
wrong sentence is to be named, once it is only to be said whether something is wrong. And a question without a twin:
of the two wordings of that sentence, which one fits the note that lacks it.

The set's clean notes are not used: they move the fact to another place of the note, which gives the answer away.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Sequence

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.behaviorbench.records import Record
from bsft_jax.errors import UserError

NO_ERROR = 'The note is correct as written.'
ERROR = 'Something in the note is wrong.'
GAP = '[…]'
WHICH = f'Which sentence belongs where the note has {GAP}?'
COLUMNS = (
    'Text ID', 'Text', 'Sentences', 'Error Flag', 'Error Type', 'Error Sentence ID', 'Error Sentence',
    'Corrected Sentence', 'Corrected Text',
)  # fmt: skip
OTHERS = 2  # sentences of the note that are options besides the one in question
OF_DIAGNOSIS = ('diagnosis', 'causalOrganism')  # error types; the others are of treatment


def read(directory: str | pathlib.Path, seed: int = 0) -> common.Loaded:
    """Records from every CSV file of a folder.

    Raises UserError for a folder that is absent or has no CSV file, and for a file that is not
    what MEDEC publishes.
    """
    rows, without_id = _rows(directory)
    records: list[Record] = []
    dropped = dict.fromkeys(('without_text_id', 'sentence_not_found', 'too_few_sentences'), 0)
    dropped['without_text_id'] = without_id
    for row in rows:
        if row['Error Flag'] == '0':
            continue
        sentences = parse_sentences(row['Sentences'])
        if not _is_found(row, sentences):
            dropped['sentence_not_found'] += 1
        elif made := _records(row, sentences, seed):
            records += made
        else:
            dropped['too_few_sentences'] += 1
    notes = {
        'rows': len(rows) + without_id,
        'rows_with_error': sum(row['Error Flag'] == '1' for row in rows),
        'clean_rows_not_used': sum(row['Error Flag'] == '0' for row in rows),
        'rows_dropped': dropped,
    }
    return common.Loaded(records, notes)


def _name(row: dict[str, str]) -> str:
    return f'medec-{row["Text ID"]}'


def parse_sentences(numbered: str) -> list[str]:
    """Sentences of the column `Sentences`: lines `0 …`, `1 …`, each with its continuation lines.

    A line begins sentence k only with the number k and a space: a continuation may begin with
    any other number.
    """
    sentences: list[str] = []
    for line in numbered.split('\n'):
        start = f'{len(sentences)} '
        if line.startswith(start):
            sentences.append(line.removeprefix(start))
        elif sentences:
            sentences[-1] += '\n' + line
    return [_line(sentence) for sentence in sentences]


def _line(text: str) -> str:
    return ' '.join(text.split())


def _rows(directory: str | pathlib.Path) -> tuple[list[dict[str, str]], int]:
    """Rows that have a Text ID, and how many have none."""
    rows: dict[str, dict[str, str]] = {}
    without_id = 0
    for path in common.files('medec', directory, '*.csv'):
        for where, row in common.table(path, COLUMNS):
            name = row['Text ID'].strip()
            if not name:
                without_id += 1
                continue
            if name in rows:
                raise UserError(f'Text ID {name!r} is there twice', where=where)
            if row['Error Flag'] not in ('0', '1'):
                raise UserError(f'Error Flag {row["Error Flag"]!r} is not 0 or 1', where=where)
            rows[name] = row | {'Text ID': name}
    return list(rows.values()), without_id


def _is_found(row: dict[str, str], sentences: list[str]) -> bool:
    """Whether the row's two notes differ in the sentence that it names, and in nothing else."""
    number, wrong, right = (
        row['Error Sentence ID'],
        _line(row['Error Sentence']),
        _line(row['Corrected Sentence']),
    )
    return (
        number.isdecimal()
        and int(number) < len(sentences)
        and sentences[int(number)] == wrong != right
        and _line(row['Text']).count(wrong) == 1
        and _line(row['Text']).replace(wrong, right) == _line(row['Corrected Text'])
        and bool(right)
    )


def _records(row: dict[str, str], sentences: list[str], seed: int) -> list[Record]:
    """All records of a note with an error; none if it has too few other sentences."""
    rng = random.Random(f'medec/{seed}/{row["Text ID"]}')
    wrong, right = sentences[int(row['Error Sentence ID'])], _line(row['Corrected Sentence'])
    others = [s for s in dict.fromkeys(sentences) if s and s not in (wrong, right, NO_ERROR)]
    whole = [s for s in others if len(s.split()) >= 4 and s[0].isupper() and s[-1] == '.']
    rng.shuffle(others)
    others.sort(key=lambda sentence: sentence not in whole)
    if len(others) < OTHERS:
        return []
    notes = {'error': row['Text'].strip(), 'clean': row['Corrected Text'].strip()}
    fix = f'It should read: {right}'
    which = {'error': [wrong, *others[:OTHERS]], 'clean': [right, *others[:OTHERS]]}
    return [
        *_twins(row, '', which, notes, fix, rng),
        *_twins(row, '-flag', {kind: [ERROR] for kind in notes}, notes, fix, rng),
        _wording(row, wrong, right, rng),
    ]


def _twins(
    row: dict[str, str],
    task: str,
    of_error: dict[str, Sequence[str]],
    notes: dict[str, str],
    fix: str,
    rng: random.Random,
) -> list[Record]:
    """The note with its error and the corrected one; `of_error` are the options that say that something is wrong, the
    right one first."""
    request = rng.choice(REVIEW.seen)
    order = common.shuffled(rng, (NO_ERROR, *of_error['error']))
    pair = f'{_name(row)}{task}'
    return [
        common.record(
            f'{note}\n\n{request}',
            [(NO_ERROR, 'reactive'), *((text, 'proactive') for text in of_error[kind])],
            int(kind == 'error'),
            order,
            id=f'{pair}-{kind}',
            case_id=_name(row),
            pair_id=pair,
            source='medec',
            license='CC-BY-4.0',
            category='error_correction',
            rationale=fix if kind == 'error' else 'Nothing in the note contradicts itself.',
        )
        for kind, note in notes.items()
    ]


def _wording(row: dict[str, str], wrong: str, right: str, rng: random.Random) -> Record:
    note = _line(row['Text']).replace(wrong, GAP)
    diagnosis = row['Error Type'] in OF_DIAGNOSIS
    choices = [(right, 'reactive'), (wrong, 'reactive')]
    return common.record(
        f'{note}\n\n{WHICH}',
        choices,
        0,
        common.shuffled(rng, choices),
        id=f'{_name(row)}-wording',
        case_id=_name(row),
        source='medec',
        license='CC-BY-4.0',
        category='differential_diagnosis' if diagnosis else 'treatment_selection',
    )
