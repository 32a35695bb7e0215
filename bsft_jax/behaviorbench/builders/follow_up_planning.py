"""follow_up_planning: something in the chart needs a next step that the draft does not plan.

Either a lung nodule of `NODULE_LIMIT` mm or more (a kidney cyst of that size needs nothing), or a
test that is still pending while the draft waits for another one. In the twin the two sizes, or the
two states, are exchanged. Hard: sizes within 2 mm; the pending test listed first.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders.scene import (
    QA,
    CategorySpec,
    Facts,
    Gate,
    Phrasings,
    Scene,
    Wording,
    draft_note,
    review_scene,
)
from bsft_jax.behaviorbench.simulator import cases
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('follow_up_planning')

SCAN = Phrasings(
    (
        'CT of {patient}: {results}.',
        'The CT of {patient} shows {results}.',
        '{patient}, on CT: {results}.',
        'CT report of {patient}: {results}.',
        'In {patient} the CT found {results}.',
        'Seen on the CT of {patient}: {results}.',
    ),
    ('On CT {patient} has {results}.', 'New CT of {patient}: {results}.'),
)
TESTS = Phrasings(
    (
        'Tests of {patient}: {results}.',
        'For {patient}, {results}.',
        '{patient}: {results}.',
        'As for {patient}, {results}.',
        'From the lab on {patient}: {results}.',
        'Where we are with {patient}: {results}.',
    ),
    ('New for {patient}: {results}.', 'The tests of {patient}: {results}.'),
)
HARMLESS_ON_CT = ('a normal liver', 'a normal spleen', 'normal bones')
NO_SCAN = Phrasings(
    (
        'No more scans.',
        'No scan planned.',
        'No scan needed.',
        'No further scans.',
        'Done with scans.',
        'Needs no scan.',
    ),
    ('No more scans planned.',),
)
WAIT = Phrasings(
    (
        'Will wait for the {test}.',
        'Await the {test}.',
        'Waiting for the {test}.',
        'Next step after the {test}.',
        'Back when we have the {test}.',
        'First we need the {test}.',
    ),
    ('We wait for the {test}.',),
)


def _scan_scenes(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins about a CT: the nodule needs a scan, then it is too small."""
    scan, note = wording.pick(SCAN), draft_note(case, wording, wording.pick(NO_SCAN))
    cyst_first = wording.rng.random() < 0.5
    scenes = []
    for nodule, cyst in ((case.nodule, case.cyst), (case.cyst, case.nodule)):
        told = [f'a solid lung nodule of {nodule} mm', f'a simple kidney cyst of {cyst} mm']
        charted = [
            f'CT: solid lung nodule of {nodule} mm.',
            f'CT: simple kidney cyst of {cyst} mm.',
        ]
        facts = Facts(
            case.nurse,
            told=tuple(reversed(told) if cyst_first else told),
            alone=(told[0],),
            irrelevant=HARMLESS_ON_CT,
            form=scan.format(patient=case.patient, results='{facts}'),
            charted=tuple(reversed(charted) if cyst_first else charted),
            section='findings',
        )
        needs_fix = nodule == case.nodule
        need = 'needs a scan' if needs_fix else 'needs no scan'
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                'Plan a lung scan',
                f'Chase the {case.tests[0]}',
                needs_fix=needs_fix,
                rationale=f'A lung nodule of {nodule} mm {need}.',
                must_mention=('lung',),
                hard=case.nodule - case.cyst <= 2,
                qa=(
                    QA('How large is the nodule?', f'{nodule} mm.', Gate.RETRIEVAL),
                    QA('How large is the cyst?', f'{cyst} mm.', Gate.RETRIEVAL),
                    QA(f'What is {nodule} mm?', 'The lung nodule.'),
                    QA(
                        'Does the nodule need a scan?',
                        f'{"Yes" if needs_fix else "No"}, {nodule} mm.',
                        Gate.LOW_OR_HIGH,
                    ),
                    QA('Does the cyst need a scan?', 'No.', Gate.LOW_OR_HIGH),
                ),
            )
        )
    return scenes


def _pending_scenes(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins about tests: the draft waits for the final one, then for the pending one."""
    missed, awaited = case.tests
    tests, listed = wording.pick(TESTS), wording.shuffled(missed, awaited)
    note = draft_note(case, wording, wording.pick(WAIT).format(test=awaited))
    scenes = []
    for pending, final in ((missed, awaited), (awaited, missed)):
        states = {t: f'the {t} is {"pending" if t == pending else "final"}' for t in listed}
        facts = Facts(
            case.nurse,
            told=tuple(states.values()),
            alone=(states[pending],),
            irrelevant=tuple(f'the {t} is final' for t in cases.TESTS if t not in listed),
            form=tests.format(patient=case.patient, results='{facts}'),
            charted=tuple(
                f'{t.capitalize()}: {"pending" if t == pending else "final"}.' for t in listed
            ),
            section='findings',
            clashes=('labs',),
        )
        needs_fix = pending == missed
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Chase the {missed}',
                'Plan a lung scan',
                needs_fix=needs_fix,
                rationale=f'The {pending} is pending.',
                must_mention=(missed,),
                hard=listed[0] == missed,
                qa=(
                    QA('Which test is pending?', f'The {pending} is pending.'),
                    QA('Which test is final?', f'The {final} is final.'),
                    QA(
                        f'Is the {missed} final?',
                        f'No, the {missed} is pending.'
                        if needs_fix
                        else f'Yes, the {missed} is final.',
                    ),
                    QA('Which test does the draft wait for?', f'The {awaited}.', Gate.COPYING),
                    QA(
                        'Does the draft wait for the right test?',
                        f'{"No" if needs_fix else "Yes"}, the {pending} is pending.',
                    ),
                ),
            )
        )
    return scenes


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins of one of the two kinds, each half of the time."""
    build_scenes = _scan_scenes if wording.rng.random() < 0.5 else _pending_scenes
    return build_scenes(case, wording)
