"""follow_up_planning: something on the chart needs a next step that the draft does not plan.

Either a lung nodule of `NODULE_LIMIT` mm or more (a kidney cyst of that size needs nothing), or a
test that is still pending while the draft waits for another one. In the twin the two sizes, or the
two states, change places. Hard: sizes within 2 mm; the pending test told first.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

SCAN = Phrasings(
    ('CT of {patient}: {found}.', 'The CT of {patient} shows {found}.', '{patient}, on CT: {found}.'),
    ('On CT {patient} has {found}.', 'New CT of {patient}: {found}.'),
)
TESTS = Phrasings(
    ('Tests of {patient}: {found}.', 'For {patient}, {found}.', '{patient}: {found}.'),
    ('New for {patient}: {found}.', 'The tests of {patient}: {found}.'),
)
NO_SCAN = Phrasings(('No more scans.', 'No scan planned.'), ('No more scans planned.',))
WAIT = Phrasings(('Will wait for the {test}.', 'Await the {test}.'), ('We wait for the {test}.',))


def _scan(case: Case, words: scene.Words) -> list[scene.Scene]:
    scan, note = words.pick(SCAN), scene.draft(case, words, words.pick(NO_SCAN))
    swapped = words.rng.random() < 0.5
    scenes = []
    for nodule, cyst in ((case.nodule, case.cyst), (case.cyst, case.nodule)):
        parts = [f'a solid lung nodule of {nodule} mm', f'a simple kidney cyst of {cyst} mm']
        if swapped:
            parts.reverse()
        wrong = nodule == case.nodule
        needs = 'needs a scan' if wrong else 'needs no scan'
        text = scan.format(patient=case.patient, found=' and '.join(parts))
        scenes.append(
            scene.review(
                case,
                (Message('user', text, case.nurse), note),
                'Plan a lung scan',
                f'Chase the {case.tests[0]}',
                wrong=wrong,
                rationale=f'A lung nodule of {nodule} mm {needs}.',
                mention=('lung',),
                hard=case.nodule - case.cyst <= 2,
                asks=(
                    ('How large is the nodule?', f'{nodule} mm.'),
                    ('How large is the cyst?', f'{cyst} mm.'),
                    (f'What is {nodule} mm?', 'The lung nodule.'),
                    ('Does the nodule need a scan?', f'{"Yes" if wrong else "No"}, {nodule} mm.'),
                    ('Does the cyst need a scan?', 'No.'),
                ),
            )
        )
    return scenes


def _pending(case: Case, words: scene.Words) -> list[scene.Scene]:
    missed, awaited = case.tests
    tests, listed = words.pick(TESTS), words.order(missed, awaited)
    note = scene.draft(case, words, words.pick(WAIT).format(test=awaited))
    scenes = []
    for pending, final in ((missed, awaited), (awaited, missed)):
        text = ' and '.join(f'the {t} is {"pending" if t == pending else "final"}' for t in listed)
        wrong = pending == missed
        scenes.append(
            scene.review(
                case,
                (Message('user', tests.format(patient=case.patient, found=text), case.nurse), note),
                f'Chase the {missed}',
                'Plan a lung scan',
                wrong=wrong,
                rationale=f'The {pending} is pending.',
                mention=(missed,),
                hard=listed[0] == missed,
                asks=(
                    ('Which test is pending?', f'The {pending} is pending.'),
                    ('Which test is final?', f'The {final} is final.'),
                    (
                        f'Is the {missed} final?',
                        f'No, the {missed} is pending.' if wrong else f'Yes, the {missed} is final.',
                    ),
                    ('Which test does the draft wait for?', f'The {awaited}.'),
                    (
                        'Does the draft wait for the right test?',
                        f'{"No" if wrong else "Yes"}, the {pending} is pending.',
                    ),
                ),
            )
        )
    return scenes


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    return (_scan if words.rng.random() < 0.5 else _pending)(case, words)
