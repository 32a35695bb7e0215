"""MEDEC (github.com/abachaa/MEDEC, CC BY 4.0): clinical notes, some with one wrong sentence.

A note with an error gives twins: the note as it is, where the wrong sentence is to be named, and
its own corrected text, where nothing is wrong. The set's clean notes are not used: they move the
fact to another place of the note, which gives the answer away.
"""

from __future__ import annotations

import csv
import pathlib
import random
from typing import Any

from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.behaviorbench.splits import near_duplicates, split_of_clusters
from bsft_jax.errors import UserError

NO_ERROR = 'The note is correct as written.'
COLUMNS = (
    'Text ID', 'Text', 'Sentences', 'Error Flag', 'Error Sentence ID', 'Error Sentence',
    'Corrected Sentence', 'Corrected Text',
)  # fmt: skip
OTHERS = 2  # sentences of the note that are options besides the one in question


def load(directory: str | pathlib.Path, seed: int = 0) -> tuple[list[Record], dict[str, Any]]:
    """Records of all splits from every CSV file of a folder, and what the card says of them.

    Raises UserError for a folder that is absent or has no CSV file, and for a file that is not
    what MEDEC publishes.
    """
    rows, without_id = _read(pathlib.Path(directory))
    firsts = near_duplicates([row['Text'] for row in rows])
    clusters = [f'medec-{rows[first]["Text ID"]}' for first in firsts]
    splits = split_of_clusters(clusters, seed)
    records: list[Record] = []
    dropped = dict.fromkeys(('without_text_id', 'sentence_not_found', 'too_few_sentences'), 0)
    dropped['without_text_id'] = without_id
    for row, cluster, split in zip(rows, clusters, splits, strict=True):
        if row['Error Flag'] == '0':
            continue
        sentences = parse_sentences(row['Sentences'])
        if not _is_found(row, sentences):
            dropped['sentence_not_found'] += 1
        elif twins := _twins(row, sentences, cluster, split, seed):
            records += twins
        else:
            dropped['too_few_sentences'] += 1
    return records, {
        'rows': len(rows) + without_id,
        'rows_with_error': sum(row['Error Flag'] == '1' for row in rows),
        'clean_rows_not_used': sum(row['Error Flag'] == '0' for row in rows),
        'rows_dropped': dropped,
        'clusters': len(set(clusters)),
    }


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


def _read(directory: pathlib.Path) -> tuple[list[dict[str, str]], int]:
    """Rows that have a Text ID, and how many have none."""
    if not directory.is_dir():
        raise UserError('no such folder', where=f'medec:{directory}')
    files = sorted(directory.glob('*.csv'))
    if not files:
        raise UserError('no CSV file in this folder', where=f'medec:{directory}')
    rows: dict[str, dict[str, str]] = {}
    without_id = 0
    for path in files:
        try:
            with path.open(encoding='utf-8-sig', newline='') as file:
                reader = csv.DictReader(file, restval='')
                if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                    raise UserError(f'column {", ".join(missing)} is missing', where=str(path))
                for row in reader:
                    name = row['Text ID'].strip()
                    if not name:
                        without_id += 1
                        continue
                    where = f'{path}:{reader.line_num}'
                    if name in rows:
                        raise UserError(f'Text ID {name!r} is there twice', where=where)
                    if row['Error Flag'] not in ('0', '1'):
                        raise UserError(f'Error Flag {row["Error Flag"]!r} is not 0 or 1', where=where)
                    rows[name] = row | {'Text ID': name}
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f'not a CSV file in UTF-8 ({error})', where=str(path)) from error
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


def _twins(
    row: dict[str, str], sentences: list[str], cluster: str, split: str, seed: int
) -> tuple[Record, ...]:
    """The note with its error and the corrected one; nothing if it has too few other sentences."""
    rng = random.Random(f'medec/{seed}/{row["Text ID"]}')
    wrong, right = sentences[int(row['Error Sentence ID'])], _line(row['Corrected Sentence'])
    others = [s for s in dict.fromkeys(sentences) if s and s not in (wrong, right, NO_ERROR)]
    whole = [s for s in others if len(s.split()) >= 4 and s[0].isupper() and s[-1] == '.']
    rng.shuffle(others)
    others.sort(key=lambda sentence: sentence not in whole)
    if len(others) < OTHERS:
        return ()
    request = rng.choice(REVIEW.seen)
    order = rng.sample(range(OTHERS + 2), OTHERS + 2)
    pair = f'medec-{row["Text ID"]}'

    def record(kind: str, note: str, sentence: str, behavior: str, rationale: str) -> Record:
        choices = [(NO_ERROR, 'reactive'), *((s, 'proactive') for s in (sentence, *others[:OTHERS]))]
        return Record(
            messages=(Message('user', f'{note.strip()}\n\n{request}'),),
            id=f'{pair}-{kind}',
            case_id=cluster,
            pair_id=pair,
            split=split,
            source='medec',
            license='CC-BY-4.0',
            category='error_correction',
            group='proactive',
            behavior=behavior,
            options=tuple(choices[k][0] for k in order),
            option_behaviors=tuple(choices[k][1] for k in order),
            answer=order.index(1 if behavior == 'proactive' else 0),
            rationale=rationale,
        )

    return (
        record('error', row['Text'], wrong, 'proactive', f'It should read: {right}'),
        record('clean', row['Corrected Text'], right, 'reactive', 'Nothing in the note contradicts itself.'),
    )
