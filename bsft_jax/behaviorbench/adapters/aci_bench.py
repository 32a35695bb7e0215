"""ACI-Bench (github.com/wyim/aci-bench, CC BY 4.0): visits, each a full dialogue and its full note.

A section of a note gives twins if a run of turns supports one of its sentences: one record shows
the section without that sentence, the other with it. The options name the sentence, and two others
of the section, as left out. The note also gives questions without a twin: which of four sentences,
each of another section, belongs under a heading.

The dialogue is cut to the turns that hold most words of the sentence. Files named `*test*` are held
out.
"""

from __future__ import annotations

import pathlib
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record

COLUMNS = ('encounter_id', 'dialogue', 'note')
COMPLETE = 'Nothing that was said is missing.'
# Turns of the dialogue that a record shows.
SHOWN_TURNS = 6
# Sentences that are options besides the one in question.
DISTRACTORS = 2
# Options of a question about a heading.
HEADING_OPTIONS = 4
# Sections with more words give no records.
MAX_SECTION_WORDS = 200
# Share of a sentence's words that the shown turns must hold.
MIN_SUPPORT = 0.7
# Length of a sentence that may be an option.
MIN_SENTENCE_WORDS, MAX_SENTENCE_WORDS = 6, 40
_HEADING = re.compile(r"[A-Z][A-Z &/,()'-]+:?")
_WORD = re.compile(r'[a-z]{4,}|\d+')
# Words too frequent to support a sentence.
_FREQUENT_WORDS = """
    about also been denies from have patient reports states that their there they this today were
    which will with
"""
_STOP_WORDS = frozenset(_FREQUENT_WORDS.split())
_IMAGE = re.compile(
    r'x-?ray|mri|\bct\b|ultrasound|echocardiogram|radiograph|mammogram|imaging', re.IGNORECASE
)
_CATEGORIES = {
    'RESULTS': 'laboratory_interpretation',
    'ASSESSMENT': 'differential_diagnosis',
    'IMPRESSION': 'differential_diagnosis',
    'PLAN': 'treatment_selection',
    'ASSESSMENT AND PLAN': 'treatment_selection',
}


class _Support(NamedTuple):
    """Holds a sentence of a section and the turns that hold `share` of its words."""

    share: float
    sentence: str
    turns: list[str]


def read(directory: str | pathlib.Path, seed: int = 0) -> common.AdapterResult:
    """Reads every CSV file of a folder.

    Raises:
      UserError: for a folder without CSV files and for a file that is not in ACI-Bench's format.
    """
    records: list[Record] = []
    names, held_out = set(), set()
    notes = {'rows': 0, 'sections': 0, 'sections_of_which_no_sentence_is_supported': 0}
    for path in common.find_files('aci_bench', directory, '*.csv'):
        for where, row in common.read_csv(path, COLUMNS):
            notes['rows'] += 1
            name = f'aci_bench-{row["encounter_id"].strip()}'
            if name in names:
                raise UserError(f'encounter_id {row["encounter_id"]!r} occurs twice', where=where)
            names.add(name)
            if 'test' in path.stem:
                held_out.add(name)
            rng = random.Random(f'aci_bench/{seed}/{name}')
            turns = parse_turns(row['dialogue'])
            sections = parse_sections(row['note'])
            supports = {
                heading: _best_support(section, turns) for heading, section in sections.items()
            }
            notes['sections'] += len(sections)
            notes['sections_of_which_no_sentence_is_supported'] += sum(
                not support for support in supports.values()
            )
            for heading, support in supports.items():
                if support:
                    records += _twins(name, heading, sections[heading], support, rng)
            records += _heading_questions(name, sections, supports, rng)
    return common.AdapterResult(records, notes, frozenset(held_out))


def parse_turns(dialogue: str) -> list[str]:
    """Returns the turns of a dialogue as `Doctor: …`, `Patient: …`.

    A turn begins with a line `[doctor] …`; a line without a speaker continues the turn before it.
    """
    turns: list[str] = []
    for line in dialogue.splitlines():
        text = ' '.join(line.split())
        if match := re.match(r'\[(\w+)\] ?', text):
            turns.append(f'{match[1].capitalize()}: {text[match.end() :]}')
        elif text and turns:
            turns[-1] += f' {text}'
    return turns


def parse_sections(note: str) -> dict[str, list[str]]:
    """Returns the sentences of each section by heading; repeated headings make one section."""
    sections: dict[str, list[str]] = {}
    heading = ''
    for line in note.splitlines():
        if _HEADING.fullmatch(line.strip()):
            heading = line.strip().rstrip(':')
        elif heading:
            sections.setdefault(heading, []).extend(common.split_sentences(line))
    return sections


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _STOP_WORDS


def _candidates(section: Sequence[str]) -> list[str]:
    """Returns the sentences of a section that may be options: complete, and not repeated."""
    complete = [
        sentence
        for sentence in section
        if MIN_SENTENCE_WORDS <= len(sentence.split()) <= MAX_SENTENCE_WORDS
        and sentence[-1] in '.?!'
    ]
    return [sentence for sentence in complete if section.count(sentence) == 1]


def _best_support(section: list[str], turns: list[str]) -> _Support | None:
    """Returns the sentence of a section of which a run of turns holds the largest share of words.

    Returns None if no run holds enough of any sentence, if the section has too few sentences that
    may be options, or if it is too long.
    """
    candidates = _candidates(section)
    if (
        len(candidates) <= DISTRACTORS
        or sum(len(sentence.split()) for sentence in section) > MAX_SECTION_WORDS
    ):
        return None
    turn_words = [_words(turn) for turn in turns]
    best = None
    for sentence in candidates:
        words = _words(sentence)
        if len(words) < MIN_SENTENCE_WORDS // 2:
            continue
        for first in range(max(1, len(turns) - SHOWN_TURNS + 1)):
            window = slice(first, first + SHOWN_TURNS)
            share = len(words & set().union(*turn_words[window])) / len(words)
            if share >= MIN_SUPPORT and (best is None or share > best.share):
                best = _Support(share, sentence, turns[window])
    return best


def _twins(
    name: str, heading: str, section: list[str], support: _Support, rng: random.Random
) -> list[Record]:
    others = [s for s in _candidates(section) if s != support.sentence]
    named = (support.sentence, *rng.sample(others, DISTRACTORS))
    choices = [(COMPLETE, 'reactive')]
    choices += [(f'The note leaves out: {sentence}', 'proactive') for sentence in named]
    order, request = common.shuffled_order(rng, choices), rng.choice(REVIEW.seen)
    pair = f'{name}-{heading.lower().replace(" ", "_")}'
    dialogue = '\n'.join(support.turns)

    def twin(kind: str, shown: Sequence[str], correct: int, rationale: str) -> Record:
        return common.make_record(
            f'{dialogue}\n\n{heading}\n{" ".join(shown)}\n\n{request}',
            choices,
            correct,
            order,
            category='omission_detection',
            id=f'{pair}-{kind}',
            case_id=name,
            pair_id=pair,
            source='aci_bench',
            license='CC-BY-4.0',
            rationale=rationale,
        )

    without = [sentence for sentence in section if sentence != support.sentence]
    return [
        twin('omission', without, 1, 'It was said, and the note lacks it.'),
        twin('complete', section, 0, 'The note has what was said.'),
    ]


def _heading_questions(
    name: str,
    sections: dict[str, list[str]],
    supports: dict[str, _Support | None],
    rng: random.Random,
) -> list[Record]:
    """Returns a question for each heading with a category: which sentence belongs under it."""
    candidates = {heading: _candidates(section) for heading, section in sections.items()}
    candidates = {heading: sentences for heading, sentences in candidates.items() if sentences}
    records = []
    for heading, support in supports.items():
        if support is None or heading not in _CATEGORIES or len(candidates) < HEADING_OPTIONS:
            continue
        others = [other for other in candidates if other != heading]
        wrong_headings = rng.sample(others, HEADING_OPTIONS - 1)
        texts = [support.sentence, *(rng.choice(candidates[other]) for other in wrong_headings)]
        if len(set(texts)) < HEADING_OPTIONS:
            continue
        is_image = heading == 'RESULTS' and _IMAGE.search(support.sentence)
        choices = [(text, 'reactive') for text in texts]
        dialogue = '\n'.join(support.turns)
        records.append(
            common.make_record(
                f'{dialogue}\n\nWhich of these belongs under the heading {heading} of the note?',
                choices,
                0,
                common.shuffled_order(rng, choices),
                category='image_reasoning' if is_image else _CATEGORIES[heading],
                id=f'{name}-heading-{heading.lower().replace(" ", "_")}',
                case_id=name,
                source='aci_bench',
                license='CC-BY-4.0',
            )
        )
    return records
