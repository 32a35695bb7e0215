"""image_reasoning: the meaning of the patient's image findings, next to the relative's.

Hard: the reading of the relative's image is an option, too.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders.scene import (
    QA,
    SENTENCES,
    CategorySpec,
    Facts,
    Gate,
    Phrasings,
    Scene,
    Wording,
)
from bsft_jax.behaviorbench.simulator import medicine
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('image_reasoning', extra_position=8)

IMAGE = Phrasings(
    (
        '{image} of {name}: {sign}.',
        'The {image} of {name} shows {sign}.',
        'On the {image} of {name}: {sign}.',
        'On the {image} of {name} there is {sign}.',
        'The {image} of {name} is back with {sign}.',
        'Report on the {image} of {name}: {sign}.',
    ),
    ('New {image} of {name}: {sign}.', 'For {name}, the {image} shows {sign}.'),
)
QUESTION = Phrasings(
    (
        'What does the image of {name} mean?',
        'What does {name} have?',
        'What is seen in {name}?',
        'How do you read the image of {name}?',
        'What is wrong with {name}?',
        'Which diagnosis fits the image of {name}?',
    ),
    ('What is most likely in {name}?', 'What does the image show for {name}?'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns one scene: the findings on two people's images and a question about the patient's."""
    mine, theirs = case.image_readings
    shows = wording.pick(IMAGE)
    images = [
        shows.format(image=medicine.IMAGES[reading][0], sign=medicine.IMAGES[reading][1], name=name)
        for name, reading in ((case.patient, mine), (case.relative, theirs))
    ]
    hard = wording.rng.random() < 0.5
    wrong = wording.rng.sample(
        [reading for reading in medicine.IMAGES if reading not in case.image_readings], 3
    )
    if hard:
        wrong[0] = theirs
    unremarkable = shows.format(image='X-ray', sign='no change', name=case.relative)
    sign = medicine.IMAGES[mine][1]
    my_image, their_image = f'{images[0]} It is {mine}.', f'{images[1]} It is {theirs}.'
    told = wording.shuffled(*images)
    return [
        Scene(
            Facts(
                case.nurse,
                told=tuple(told),
                alone=(images[0],),
                irrelevant=(unremarkable,),
                joiners=SENTENCES,
                charted=tuple(told),
                section='findings',
                clashes=('vitals', 'labs', 'exam'),
            ),
            (mine, 'reactive'),
            tuple((reading, 'reactive') for reading in wrong),
            f'{case.patient} has {sign}: {mine}.',
            question=wording.pick(QUESTION).format(name=case.patient),
            hard=hard,
            qa=(
                QA(f'What does {case.patient} have?', my_image, Gate.RETRIEVAL),
                QA(f'What does {case.relative} have?', their_image, Gate.RETRIEVAL),
                QA(f'What does {sign} mean?', f'{mine}.', Gate.FINDINGS_TO_DIAGNOSIS),
                QA(f'Who has {mine}?', my_image, Gate.WHO),
                QA(f'What is seen in {mine}?', f'{sign}.'),
            ),
        )
    ]
