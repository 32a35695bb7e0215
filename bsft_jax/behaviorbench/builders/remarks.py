"""Remarks that fill clinical notes: plausible, and irrelevant to every task.

A remark is a template: `{a|b}` is one of the texts, `{2-8}` a whole number in the range. No remark
names a person, a drug, an allergy, an order, or a complaint, event or test of the simulator. Topics
that may contradict the facts of a category are left out of its notes (`Facts.clashes`).
"""

from __future__ import annotations

import enum

from bsft_jax.behaviorbench.builders.scene import Phrasings


class Topic(enum.StrEnum):
    """Names what remarks are about."""

    HISTORY = 'history'
    VITALS = 'vitals'
    LABS = 'labs'
    EXAM = 'exam'
    STATE = 'state'
    ARRANGEMENTS = 'arrangements'


REMARKS = {
    Topic.HISTORY: Phrasings(
        (
            'PSH: tonsillectomy {1996-2012}, uneventful.',
            'FH: {noncontributory|nothing of relevance}.',
            'SH: {nonsmoker|never smoked}, coffee {1-3} cups/d.',
            'Immunizations {complete|up to date}, tetanus {2016-2022}.',
            'Diet: {mixed|regular|low in salt}, {3-4} meals/d.',
            'Exercise: {swims|cycles|runs} {2-4} times a week for {20-45} min.',
            'Travel: none abroad in the last {6-18} mo.',
            'Desk job, {full|part} time, {30-42} h/wk.',
            'Last dental check {3-9} mo ago, no findings.',
            'Eye check {2018-2023}: no change.',
            'Previous visit {2-8} mo ago for a routine check, unremarkable.',
            'No transfusions, no exposures at work.',
            'Usual bedtime {21-23}:{10-50}, {6-8} h of sleep.',
            'Questionnaire of {2-4} pages completed, all items answered.',
            'Broke the left wrist in {1999-2011}, healed well.',
            'Childhood: chickenpox and measles, no sequelae.',
        ),
        (
            'Vaccinated per schedule, last booster {2017-2022}.',
            'Coffee {2-3} times a day, no tobacco.',
            'Family history without relevant illness.',
            'Office work {28-40} h a week, little lifting.',
            'Meals {3-4} times a day, about {1600-2200} kcal.',
            'Climbs {2-4} flights without a stop, hikes in summer.',
            'Not abroad since {2018-2022}.',
            'Tonsils out as a child, otherwise no stays in hospital.',
            'Dentist seen {2-7} mo ago, eyes tested in {2019-2023}.',
            'In bed by {21-23}:{10-50}, up at {5-7}:{10-50}.',
            'Old records {read|seen}, {4-9} pages.',
            'Fractured a finger in {2001-2014}, full recovery.',
            'Routine check {5-11} mo ago without findings.',
            'Had mumps as a child, no late effects.',
        ),
    ),
    Topic.VITALS: Phrasings(
        (
            'T 36.{5-9} °C, RR {12-16}/min.',
            'BP {112-128}/{70-82} mmHg, HR {62-84}/min.',
            'SpO2 {97-99} % RA.',
            'Wt {58-84} kg, Ht 1.{58-86} m.',
        ),
        (
            'Temp 36.{5-9}, resp. rate {12-16}, taken at rest.',
            'NIBP {112-128}/{70-82}, rate {62-84}, regular.',
            'Sat {97-99} % on air.',
            'BMI {20-25} kg/m2 at {58-84} kg.',
        ),
    ),
    Topic.LABS: Phrasings(
        (
            'WBC {5-8}.{0-9} G/L, CRP {1-4} mg/L.',
            'PLT {180-320} G/L, LDH {140-210} U/L.',
            'TSH {1-3}.{1-9} mU/L, ferritin {60-140} ug/L.',
            'ALT {14-34} U/L, AST {14-32} U/L.',
        ),
        (
            'White cells {5-8}.{0-9}, platelets {180-320}.',
            'Liver enzymes: ALT {14-34}, AST {14-32}.',
            'Vitamin B12 {300-500} pg/mL, folate {8-14} ng/mL.',
            'Thyroid: TSH {1-3}.{1-9}.',
        ),
    ),
    Topic.EXAM: Phrasings(
        (
            'Abdomen soft, peristalsis present.',
            'Vesicular breathing on both sides.',
            'Pupils equal and reactive.',
            'Neck supple, thyroid not enlarged.',
            'Full ROM in {shoulders|hips} and knees.',
            'Reflexes symmetric, strength 5/5.',
            'Lymph nodes not palpable.',
        ),
        (
            'Belly soft, no guarding.',
            'Breath sounds equal on both sides.',
            'Cranial nerves II to XII intact.',
            'Spine without deformity.',
            'Peripheral pulses present.',
            'No enlarged nodes.',
            'Gait and balance steady, Romberg negative.',
        ),
    ),
    Topic.STATE: Phrasings(
        (
            'Alert and oriented x{3-4}, {calm|cooperative}.',
            'Appetite {good|fair}, ate {70-95} % of lunch.',
            'Ambulates {40-90} m without aid.',
            'ADLs independent, Barthel 100.',
            'Mood {even|good}, PHQ-2 score 0.',
            'Slept {6-8} h last night, woke once.',
            'Braden {20-23}, Morse {5-25}.',
            'Washed and dressed {alone|unaided} by {7-9}:{10-50}.',
            'IV site {clean|dry}, lock flushed at {8-11}:{10-50}.',
            'Speech fluent, follows {2-3}-step commands.',
            'Up in chair for {20-50} min after breakfast.',
            'Tolerates oral fluids, diet advanced.',
        ),
        (
            'Awake, answers in full sentences.',
            'Breakfast and lunch {mostly|fully} eaten.',
            'Walks the ward {2-4} times a shift.',
            'Self-care without help.',
            'In good spirits, visitors at {14-17}:{10-50}.',
            'Restful night, {6-8} h.',
            'Watched TV until {20-22}:{10-50}.',
            'Cannula in the left forearm, {patent|unused}.',
            'Sat at the bedside for {20-50} min.',
            'Needs {no|little} prompting.',
            'Reads the paper, asks for the radio.',
        ),
    ),
    Topic.ARRANGEMENTS: Phrasings(
        (
            'Transport booked for {14-17}:{10-50}.',
            'Call bell within reach, bed {2-30} low and locked.',
            'Phone number and address {checked|confirmed}.',
            'Leaflet given, questions {answered|invited}.',
            'Copy of the insurance card on file.',
            'Interpreter not needed.',
            'GP {informed|to be informed} by fax.',
            'Next free slot {9-12}:{10-50} on {Monday|Tuesday|Thursday}.',
            'Wristband checked, MRN ends in {100-999}.',
            'Valuables in locker {2-40}.',
            'Consent for data use on file.',
            'Parking ticket stamped.',
            'Seen in room {2-18} at {8-11}:{10-50}.',
            'Total time {15-40} min, of which {5-14} min for counselling.',
        ),
        (
            'Taxi ordered for {14-17}:{10-50}.',
            'Bell and water in reach, rails up.',
            'Contact details unchanged.',
            'Written advice handed out and read together.',
            'Insurance data {read|scanned}.',
            'Letter to the practice goes out on {Monday|Wednesday|Friday}.',
            'Identity checked with {2-3} items.',
            'Belongings labelled, {2-5} bags.',
            'Waiting time {10-40} min, explained.',
            'The desk will ring between {9-11} and {13-16} h.',
            'Visiting hours explained.',
            'Room {2-18}, window side.',
            'Feedback form handed over, {2-4} pages.',
        ),
    ),
}
