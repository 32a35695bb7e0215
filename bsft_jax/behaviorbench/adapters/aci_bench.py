"""ACI-Bench (github.com/wyim/aci-bench, CC BY 4.0): visits, each a whole dialogue and its whole note.

A section of a note, beside the turns that one of its sentences sums up, gives twins: with that sentence, and without
it. The options name the sentence and two others of the section as left out. And a question without a twin: which of
four sentences of the note, each of another section, belongs under one heading.

The dialogue is cut to the turns that hold most words of the sentence. Files named `*test*` are held out.
"""

from __future__ import annotations

import pathlib
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.behaviorbench.records import Record
from bsft_jax.errors import UserError

COLUMNS = ('encounter_id', 'dialogue', 'note')
COMPLETE = 'Nothing that was said is missing.'
TURNS = 6  # of the dialogue that are shown
OTHERS = 2  # sentences that are options besides the one in question
HEADINGS = 4  # of a question
LONGEST = 200  # words of a section
SHARE = 0.7  # of a sentence's words that the turns must hold
FEWEST_WORDS, MOST_WORDS = 6, 40  # of a sentence that is an option
_HEADING = re.compile(r"[A-Z][A-Z &/,()'-]+:?")
_WORD = re.compile(r'[a-z]{4,}|\d+')
_COMMON = {
    'about', 'also', 'been', 'denies', 'from', 'have', 'patient', 'reports', 'states', 'that', 'their',
    'there', 'they', 'this', 'today', 'were', 'which', 'will', 'with',
}  # fmt: skip
_IMAGE = re.compile(
    r'x-?ray|mri|\bct\b|ultrasound|echocardiogram|radiograph|mammogram|imaging', re.IGNORECASE
)
_CATEGORY = {
    'RESULTS': 'laboratory_interpretation', 'ASSESSMENT': 'differential_diagnosis',
    'IMPRESSION': 'differential_diagnosis', 'PLAN': 'treatment_selection',
    'ASSESSMENT AND PLAN': 'treatment_selection',
}  # fmt: skip


class _Supported(NamedTuple):
    """A sentence of a section and the turns that it sums up."""

    share: float
    sentence: str
    turns: list[str]


def read(directory: str | pathlib.Path, seed: int = 0) -> common.Loaded:
    """Records from every CSV file of a folder.

    Raises UserError for a folder without one and for a file that is not what ACI-Bench publishes.
    """
    records: list[Record] = []
    seen, held_out = set(), set()
    notes = {'rows': 0, 'sections': 0, 'sections_of_which_no_sentence_is_supported': 0}
    for path in common.files('aci_bench', directory, '*.csv'):
        for where, row in common.table(path, COLUMNS):
            notes['rows'] += 1
            name = f'aci_bench-{row["encounter_id"].strip()}'
            if name in seen:
                raise UserError(f'encounter_id {row["encounter_id"]!r} is there twice', where=where)
            seen.add(name)
            if 'test' in path.stem:
                held_out.add(name)
            rng = random.Random(f'aci_bench/{seed}/{name}')
            turns = turns_of(row['dialogue'])
            sections = sections_of(row['note'])
            found = {heading: _supported(part, turns) for heading, part in sections.items()}
            notes['sections'] += len(sections)
            notes['sections_of_which_no_sentence_is_supported'] += sum(not x for x in found.values())
            for heading, best in found.items():
                if best:
                    records += _twins(name, heading, sections[heading], best, rng)
            records += _headings(name, sections, found, rng)
    return common.Loaded(records, notes, frozenset(held_out))


def turns_of(dialogue: str) -> list[str]:
    """Turns `Doctor: …`, `Patient: …` of lines `[doctor] …`; a line without a speaker belongs to the turn before."""
    turns: list[str] = []
    for line in dialogue.splitlines():
        said = ' '.join(line.split())
        if match := re.match(r'\[(\w+)\] ?', said):
            turns.append(f'{match[1].capitalize()}: {said[match.end() :]}')
        elif said and turns:
            turns[-1] += f' {said}'
    return turns


def sections_of(note: str) -> dict[str, list[str]]:
    """Heading → sentences of each section; a heading that is there again adds to the first."""
    sections: dict[str, list[str]] = {}
    heading = ''
    for line in note.splitlines():
        if _HEADING.fullmatch(line.strip()):
            heading = line.strip().rstrip(':')
        elif heading:
            sections.setdefault(heading, []).extend(common.sentences(line))
    return sections


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _COMMON


def _options(part: Sequence[str]) -> list[str]:
    """Sentences of a section that may be options: whole ones, there once."""
    fitting = [s for s in part if FEWEST_WORDS <= len(s.split()) <= MOST_WORDS and s[-1] in '.?!']
    return [s for s in fitting if part.count(s) == 1]


def _supported(part: list[str], turns: list[str]) -> _Supported | None:
    """The sentence that a run of turns holds most of; None where none is held, or they have too few or too many words."""
    options = _options(part)
    if len(options) <= OTHERS or sum(len(s.split()) for s in part) > LONGEST:
        return None
    heard = [_words(turn) for turn in turns]
    best = None
    for sentence in options:
        words = _words(sentence)
        if len(words) < FEWEST_WORDS // 2:
            continue
        for first in range(max(1, len(turns) - TURNS + 1)):
            share = len(words & set().union(*heard[first : first + TURNS])) / len(words)
            if share >= SHARE and (best is None or share > best.share):
                best = _Supported(share, sentence, turns[first : first + TURNS])
    return best


def _twins(name: str, heading: str, part: list[str], best: _Supported, rng: random.Random) -> list[Record]:
    others = rng.sample([s for s in _options(part) if s != best.sentence], OTHERS)
    choices = [(COMPLETE, 'reactive')]
    choices += [(f'The note leaves out: {s}', 'proactive') for s in (best.sentence, *others)]
    order, request = common.shuffled(rng, choices), rng.choice(REVIEW.seen)
    pair = f'{name}-{heading.lower().replace(" ", "_")}'
    visit = '\n'.join(best.turns)

    def twin(kind: str, shown: Sequence[str], right: int, rationale: str) -> Record:
        return common.record(
            f'{visit}\n\n{heading}\n{" ".join(shown)}\n\n{request}', choices, right, order,
            category='omission_detection', id=f'{pair}-{kind}', case_id=name, pair_id=pair, source='aci_bench',
            license='CC-BY-4.0', rationale=rationale,
        )  # fmt: skip

    return [
        twin('omission', [s for s in part if s != best.sentence], 1, 'It was said, and the note lacks it.'),
        twin('complete', part, 0, 'The note has what was said.'),
    ]


def _headings(
    name: str, sections: dict[str, list[str]], found: dict[str, _Supported | None], rng: random.Random
) -> list[Record]:
    """For each heading with a category: which sentence belongs under it."""
    usable = {heading: _options(part) for heading, part in sections.items()}
    usable = {heading: part for heading, part in usable.items() if part}
    records = []
    for heading, best in found.items():
        if best is None or heading not in _CATEGORY or len(usable) < HEADINGS:
            continue
        wrong = rng.sample([other for other in usable if other != heading], HEADINGS - 1)
        texts = [best.sentence, *(rng.choice(usable[other]) for other in wrong)]
        if len(set(texts)) < HEADINGS:
            continue
        image = heading == 'RESULTS' and _IMAGE.search(best.sentence)
        choices = [(text, 'reactive') for text in texts]
        visit = '\n'.join(best.turns)
        records.append(
            common.record(
                f'{visit}\n\nWhich of these belongs under the heading {heading} of the note?',
                choices, 0, common.shuffled(rng, choices),
                category='image_reasoning' if image else _CATEGORY[heading],
                id=f'{name}-heading-{heading.lower().replace(" ", "_")}', case_id=name, source='aci_bench',
                license='CC-BY-4.0',
            )
        )  # fmt: skip
    return records
