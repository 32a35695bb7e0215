"""image_reasoning: what the written findings of the patient's image mean; another person's stand beside.

Hard: the other person's reading is an option, too.
"""

from __future__ import annotations

from bsft_jax.behaviorbench import medicine
from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

IMAGE = Phrasings(
    ('{image} of {name}: {sign}.', 'The {image} of {name} shows {sign}.'),
    ('New {image} of {name}: {sign}.', 'For {name}, the {image} shows {sign}.'),
)
QUESTION = Phrasings(
    ('What does the image of {name} mean?', 'What does {name} have?', 'What is seen in {name}?'),
    ('What is most likely in {name}?', 'What does the image show for {name}?'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    mine, theirs = case.images
    shown = words.pick(IMAGE)
    images = [
        shown.format(image=medicine.IMAGES[reading][0], sign=medicine.IMAGES[reading][1], name=name)
        for name, reading in ((case.patient, mine), (case.relative, theirs))
    ]
    hard = words.rng.random() < 0.5
    wrong = words.rng.sample([reading for reading in medicine.IMAGES if reading not in case.images], 3)
    if hard:
        wrong[0] = theirs
    sign = medicine.IMAGES[mine][1]
    return [
        scene.Scene(
            (Message('user', ' '.join(words.order(*images)), case.nurse),),
            (mine, 'reactive'),
            tuple((reading, 'reactive') for reading in wrong),
            f'{case.patient} has {sign}: {mine}.',
            question=words.pick(QUESTION).format(name=case.patient),
            hard=hard,
            asks=(
                (f'What does {case.patient} have?', f'{images[0]} It is {mine}.'),
                (f'What does {case.relative} have?', f'{images[1]} It is {theirs}.'),
                (f'What does {sign} mean?', f'{mine}.'),
                (f'Who has {mine}?', f'{images[0]} It is {mine}.'),
                (f'What is seen in {mine}?', f'{sign}.'),
            ),
        )
    ]
