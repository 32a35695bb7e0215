"""MEDEC (github.com/abachaa/MEDEC, CC BY 4.0): clinical notes, some with one wrong sentence.

A note with an error gives two pairs of twins. Each pair has the note as it is and its own corrected
text, in which nothing is wrong. The first pair asks which sentence is wrong, the second only
whether one is. The note also gives a question without a twin: which of two wordings of the sentence
fits the note without it.

The clean notes of the set are not used: they have the fact at another place in the note, which
gives the answer away.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Sequence

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record

NO_ERROR = 'The note is correct as written.'
ERROR = 'Something in the note is wrong.'
GAP = '[…]'
WORDING_QUESTION = f'Which sentence belongs where the note has {GAP}?'
COLUMNS = (
    'Text ID',
    'Text',
    'Sentences',
    'Error Flag',
    'Error Type',
    'Error Sentence ID',
    'Error Sentence',
    'Corrected Sentence',
    'Corrected Text',
)
# Sentences of the note that are options besides the one in question.
DISTRACTORS = 2
# Error types about a diagnosis; all other types are about treatment.
DIAGNOSIS_ERRORS = ('diagnosis', 'causalOrganism')


def read(directory: str | pathlib.Path, seed: int = 0) -> common.AdapterResult:
    """Reads every CSV file of a folder.

    Raises:
      UserError: for a folder that does not exist or has no CSV file, and for a file that is not in
        MEDEC's format.
    """
    rows, without_id = _read_rows(directory)
    records: list[Record] = []
    dropped = dict.fromkeys(('without_text_id', 'sentence_not_found', 'too_few_sentences'), 0)
    dropped['without_text_id'] = without_id
    for row in rows:
        if row['Error Flag'] == '0':
            continue
        sentences = parse_sentences(row['Sentences'])
        if not _differs_in_named_sentence(row, sentences):
            dropped['sentence_not_found'] += 1
        elif row_records := _records(row, sentences, seed):
            records += row_records
        else:
            dropped['too_few_sentences'] += 1
    notes = {
        'rows': len(rows) + without_id,
        'rows_with_error': sum(row['Error Flag'] == '1' for row in rows),
        'clean_rows_not_used': sum(row['Error Flag'] == '0' for row in rows),
        'rows_dropped': dropped,
    }
    return common.AdapterResult(records, notes)


def _name(row: dict[str, str]) -> str:
    return f'medec-{row["Text ID"]}'


def parse_sentences(numbered: str) -> list[str]:
    """Returns the sentences of the column `Sentences`.

    The column has lines `0 …`, `1 …` and so on, each followed by its continuation lines. Only a
    line that starts with the number of the next sentence and a space begins one: a continuation
    line may start with any other number.
    """
    sentences: list[str] = []
    for line in numbered.split('\n'):
        start = f'{len(sentences)} '
        if line.startswith(start):
            sentences.append(line.removeprefix(start))
        elif sentences:
            sentences[-1] += '\n' + line
    return [_one_line(sentence) for sentence in sentences]


def _one_line(text: str) -> str:
    return ' '.join(text.split())


def _read_rows(directory: str | pathlib.Path) -> tuple[list[dict[str, str]], int]:
    """Returns the rows with a Text ID, and the number of rows without one."""
    rows: dict[str, dict[str, str]] = {}
    without_id = 0
    for path in common.find_files('medec', directory, '*.csv'):
        for where, row in common.read_csv(path, COLUMNS):
            name = row['Text ID'].strip()
            if not name:
                without_id += 1
                continue
            if name in rows:
                raise UserError(f'Text ID {name!r} occurs twice', where=where)
            if row['Error Flag'] not in ('0', '1'):
                raise UserError(f'Error Flag {row["Error Flag"]!r} is not 0 or 1', where=where)
            rows[name] = row | {'Text ID': name}
    return list(rows.values()), without_id


def _differs_in_named_sentence(row: dict[str, str], sentences: list[str]) -> bool:
    """Returns whether the two notes of a row differ only in the sentence that the row names."""
    number = row['Error Sentence ID']
    wrong, corrected = _one_line(row['Error Sentence']), _one_line(row['Corrected Sentence'])
    note = _one_line(row['Text'])
    return (
        number.isdecimal()
        and int(number) < len(sentences)
        and sentences[int(number)] == wrong != corrected
        and note.count(wrong) == 1
        and note.replace(wrong, corrected) == _one_line(row['Corrected Text'])
        and bool(corrected)
    )


def _records(row: dict[str, str], sentences: list[str], seed: int) -> list[Record]:
    """Returns all records of a note with an error; none if it has too few other sentences."""
    rng = random.Random(f'medec/{seed}/{row["Text ID"]}')
    wrong = sentences[int(row['Error Sentence ID'])]
    corrected = _one_line(row['Corrected Sentence'])
    # Complete sentences come first as distractors; fragments fill up what is missing.
    others = [s for s in dict.fromkeys(sentences) if s and s not in (wrong, corrected, NO_ERROR)]
    complete = [s for s in others if len(s.split()) >= 4 and s[0].isupper() and s[-1] == '.']
    rng.shuffle(others)
    others.sort(key=lambda sentence: sentence not in complete)
    if len(others) < DISTRACTORS:
        return []
    distractors = others[:DISTRACTORS]
    notes = {'error': row['Text'].strip(), 'clean': row['Corrected Text'].strip()}
    fix = f'It should read: {corrected}'
    named = {'error': [wrong, *distractors], 'clean': [corrected, *distractors]}
    flagged = {kind: [ERROR] for kind in notes}
    return [
        *_twins(row, '', named, notes, fix, rng),
        *_twins(row, '-flag', flagged, notes, fix, rng),
        _wording(row, wrong, corrected, rng),
    ]


def _twins(
    row: dict[str, str],
    task: str,
    error_options: dict[str, Sequence[str]],
    notes: dict[str, str],
    fix: str,
    rng: random.Random,
) -> list[Record]:
    """Returns the records of the note with its error and of the corrected note.

    `error_options` are the options which say that something is wrong, for each of the two notes;
    the correct one comes first.
    """
    request = rng.choice(REVIEW.seen)
    order = common.shuffled_order(rng, (NO_ERROR, *error_options['error']))
    pair = f'{_name(row)}{task}'
    return [
        common.make_record(
            f'{note}\n\n{request}',
            [(NO_ERROR, 'reactive'), *((text, 'proactive') for text in error_options[kind])],
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


def _wording(row: dict[str, str], wrong: str, corrected: str, rng: random.Random) -> Record:
    note = _one_line(row['Text']).replace(wrong, GAP)
    is_diagnosis = row['Error Type'] in DIAGNOSIS_ERRORS
    choices = [(corrected, 'reactive'), (wrong, 'reactive')]
    return common.make_record(
        f'{note}\n\n{WORDING_QUESTION}',
        choices,
        0,
        common.shuffled_order(rng, choices),
        id=f'{_name(row)}-wording',
        case_id=_name(row),
        source='medec',
        license='CC-BY-4.0',
        category='differential_diagnosis' if is_diagnosis else 'treatment_selection',
    )
