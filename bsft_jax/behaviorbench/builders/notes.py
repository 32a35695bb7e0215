"""Clinical notes: the facts of a scene inside a note of several sections, in one of several styles.

The other sentences are remarks that change nothing. Twins get the same note but for their facts.
"""

from __future__ import annotations

import dataclasses
import random
import re

from bsft_jax.behaviorbench.builders.remarks import REMARKS, Topic
from bsft_jax.behaviorbench.builders.scene import Facts
from bsft_jax.behaviorbench.simulator.cases import Case

# Words after which no further remark is added. Openings, headings and bullets count as words, too,
# so that the longest note has nearly 400.
MIN_WORDS, MAX_WORDS = 160, 320
# Section -> the topics that stand in it. Facts stand in one of the first two.
SECTIONS = {
    'history': (Topic.HISTORY,),
    'findings': (Topic.VITALS, Topic.LABS, Topic.EXAM),
    'state': (Topic.STATE,),
    'arrangements': (Topic.ARRANGEMENTS,),
}


@dataclasses.dataclass(frozen=True)
class Style:
    """Describes how a note is laid out.

    Attributes:
      opening: what stands before the sentence about the people; it may name `{doctor}`, `{nurse}`.
      headings: section -> its heading; the sections stand in this order.
      bullet: what stands before each sentence of a section.
      between: what stands between two sentences of a section.
      after_section: what stands between two sections.
      closing: the end of the note.
    """

    opening: str
    headings: dict[str, str]
    bullet: str = ''
    between: str = ' '
    after_section: str = '\n'
    closing: str = ''


SOAP = Style('', {'history': 'S: ', 'findings': 'O: ', 'state': 'A: ', 'arrangements': 'P: '})
NARRATIVE = Style(
    'Progress report of today. ',
    {'history': '', 'state': '', 'findings': '', 'arrangements': ''},
    after_section=' ',
)
DISCHARGE_LETTER = Style(
    'Dear colleague, thank you for taking over the further care.\n',
    {
        'history': 'History. ',
        'findings': 'On examination. ',
        'state': 'At discharge. ',
        'arrangements': 'Further care. ',
    },
    after_section='\n\n',
    closing='\n\nWith kind regards, {doctor}',
)
BULLET_LIST = Style(
    '',
    {
        'history': 'Hx\n',
        'findings': 'Findings\n',
        'state': 'Status\n',
        'arrangements': 'To do\n',
    },
    bullet='- ',
    between='\n',
)
NURSING_HANDOVER = Style(
    'Handover by {nurse}, SBAR.\n',
    {
        'state': 'Situation: ',
        'history': 'Background: ',
        'findings': 'Assessment: ',
        'arrangements': 'Recommendation: ',
    },
)
ROWS = Style(
    'WARD ROUND\n',
    {
        'state': 'GENERAL | ',
        'findings': 'OBJECTIVE | ',
        'history': 'BACKGROUND | ',
        'arrangements': 'PLAN | ',
    },
    between=' | ',
)
SEEN_STYLES = (SOAP, NARRATIVE, DISCHARGE_LETTER, BULLET_LIST)
# Only the test split uses these.
HELD_OUT_STYLES = (NURSING_HANDOVER, ROWS)


def write_note(case: Case, facts: Facts, rng: random.Random, *, held_out: bool) -> str:
    """Returns a note with the facts of a scene, at most 400 words long.

    Args:
      case: the case.
      facts: what the scene tells; `charted` goes into its section, in order.
      rng: draws style and remarks; with the same state, twins get the same ones.
      held_out: whether to use the styles and remarks of the test split.
    """
    style = rng.choice(HELD_OUT_STYLES if held_out else SEEN_STYLES)
    sections = _draw_remarks(facts, rng, held_out)
    own = sections[facts.section]
    # Facts stand at random places among the remarks of their section, in their own order.
    places = sorted(rng.randint(0, len(own)) for _ in facts.charted)
    for place, statement in reversed(list(zip(places, facts.charted, strict=True))):
        own.insert(place, statement)
    parts = [
        heading + style.between.join(f'{style.bullet}{text}' for text in sections[section])
        for section, heading in style.headings.items()
        if sections[section]
    ]
    people = facts.people or f'Pt: {case.patient}.'
    note = style.after_section.join([style.opening + people, *parts]) + style.closing
    return note.replace('{doctor}', case.doctor).replace('{nurse}', case.nurse)


def _draw_remarks(facts: Facts, rng: random.Random, held_out: bool) -> dict[str, list[str]]:
    """Returns remarks by section, in random order, so many that the note has a random length."""
    remarks = [
        (section, template)
        for section, topics in SECTIONS.items()
        for topic in topics
        if topic not in facts.clashes
        for template in (REMARKS[topic].held_out if held_out else REMARKS[topic].seen)
    ]
    rng.shuffle(remarks)
    missing = rng.randint(MIN_WORDS, MAX_WORDS) - sum(len(text.split()) for text in facts.charted)
    sections: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for section, template in remarks:
        if missing <= 0:
            break
        remark = re.sub(r'\{(.*?)\}', lambda match: _draw(match[1], rng), template)
        sections[section].append(remark)
        missing -= len(remark.split())
    return sections


def _draw(choices: str, rng: random.Random) -> str:
    """Returns one of the texts `a|b`, or a number of the range `2-8`."""
    if ends := re.fullmatch(r'(\d+)-(\d+)', choices):
        return str(rng.randint(int(ends[1]), int(ends[2])))
    return rng.choice(choices.split('|'))
