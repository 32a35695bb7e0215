"""Evaluations and a study without a model: records, predictions and metrics by chance."""

import json

import numpy as np

from bsft_jax import files
from bsft_jax.evaluation.metrics import metrics_from_predictions
from bsft_jax.inference import policies
from bsft_jax.records.digest import digest_of_words
from bsft_jax.records.record import Message, Record
from bsft_jax.report import eval_page, study_page
from bsft_jax.report.evaluated import Evaluated
from bsft_jax.studies import summary as summary_lib

LEVELS = {'reactive': 0.0, 'proactive': 1.0}
CATEGORIES = {
    'treatment_selection': 'reactive',
    'medication_safety': 'bridging',
    'omission_detection': 'proactive',
}


def records(cases, words=12, **changed):
    """Returns twins of three categories for each case; `changed` fields replace those of all."""
    found = []
    for case in range(cases):
        for category, group in CATEGORIES.items():
            for twin, behavior in enumerate(LEVELS):
                name = f'c{case}-{category}-{"ab"[twin]}'
                text = f'Case {case}: ' + ' '.join(f'word{n}' for n in range(words))
                fact = 'takes warfarin' if twin else 'takes nothing'
                fields = {
                    'messages': (Message('user', f'{text}. She {fact}.', name='Dr. Ito'),),
                    'id': name,
                    'case_id': f'c{case}',
                    'pair_id': f'c{case}-{category}',
                    'category': category,
                    'group': group,
                    'behavior': behavior,
                    'difficulty': 1 + case % 2,
                    'options': ('Sign it', 'Hold it', 'Wait', 'Ask for the INR'),
                    'option_behaviors': ('reactive', 'proactive', 'reactive', 'proactive'),
                    'answer': twin + 2 * (case % 2),
                }
                found.append(Record(**{**fields, **changed}))
    return found


def predictions(of, seed=0, tokens=True):
    """Returns rows of predictions.jsonl under the policy auto, better than chance."""
    rng, rows = np.random.default_rng(seed), []
    for record in of:
        label = record.behavior == 'proactive'
        choice = rng.normal(1.2 if label else -1.2, 1.5)
        names = ['none', *LEVELS] if tokens else ['none']
        scores = {}
        for name in names:
            logit_K = rng.normal(0, 0.7, len(record.options))
            logit_K[record.answer] += 1
            for k, behavior in enumerate(record.option_behaviors):
                logit_K[k] += 3.0 * (behavior == name)
            scores[name] = (logit_K - np.logaddexp.reduce(logit_K)).astype(np.float32).tolist()
        behavior_logprobs = {
            'reactive': float(np.float32(-np.logaddexp(0, choice))),
            'proactive': float(np.float32(-np.logaddexp(0, -choice))),
        }
        rows.append(
            {
                'id': record.id,
                'case_id': record.case_id,
                'pair_id': record.pair_id,
                'category': record.category,
                'group': record.group,
                'difficulty': record.difficulty,
                'behavior': record.behavior,
                'answer': record.answer,
                'behavior_logprobs': behavior_logprobs if tokens else None,
                'option_logprobs': scores,
                'option_behaviors': list(record.option_behaviors),
                'digest': digest_of_words(record),
            }
        )
    return policies.apply_policy(rows, policies.Policy('auto', positions=(0.0, 1.0)))


def write_evaluation(folder, of, *, seed=0, tokens=True, data='synthetic:9', words=True):
    """Writes the files of an evaluation to a folder and returns it as pages take it."""
    rows = predictions(of, seed, tokens)
    metrics = metrics_from_predictions(rows, policy='auto', prompt='plain', levels=LEVELS)
    metrics |= {'split': 'test', 'data': data, 'behaviors': LEVELS, 'model': 'tiny'}
    metrics['trained_on'] = None
    folder.mkdir(parents=True)
    files.write_lines(folder / 'predictions.jsonl', rows)
    files.write_json(folder / 'metrics.json', metrics)
    shown = {record.id: record for record in of} if words else {}
    return Evaluated(folder.parents[1].name, folder, rows, json.loads(json.dumps(metrics)), shown)


def write_study(folder, of, seeds=(0, 1)):
    """Writes a study of two arms with the pages of their evaluations; returns its summary."""
    results = []
    for arm in ('behavior_sft', 'general_sft'):
        for seed in seeds:
            workdir = f'points/{arm}-s{seed}'
            place, tokens = folder / workdir / 'eval/test-auto', arm == 'behavior_sft'
            # Other draws for each arm and seed.
            found = write_evaluation(place, of, seed=2 * seed + tokens, tokens=tokens)
            eval_page.write_page(place / eval_page.PAGE, f'{arm} {seed}', [found])
            results.append(
                {
                    'arm': arm,
                    'seed': seed,
                    'workdir': workdir,
                    'evaluation': {'policy': 'auto', 'prompt': 'plain', 'name': 'test-auto'},
                    'metrics': found.metrics,
                    'predictions': found.predictions,
                }
            )
            files.write_lines(folder / workdir / 'metrics.jsonl', _training_lines(seed, tokens))
    summary = summary_lib.summarize_study(
        'fake',
        results,
        endpoint=('proactive', ('behavior_sft', 'auto'), ('general_sft', 'auto')),
        published=[],
        levels=LEVELS,
        resamples=200,
    )
    files.write_json(folder / 'summary.json', {**summary, 'shortcuts': ''})
    study_page.write_page(folder)
    return json.loads((folder / 'summary.json').read_text())


def _training_lines(seed, tokens):
    lines = []
    for n in range(1, 41):
        norms = {
            f'behavior_input_norm/{name}': 0.4 + n / (90 + 20 * k) for k, name in enumerate(LEVELS)
        }
        line = {'step': 10 * n, 'loss': 7 / n + 0.1 * seed, 'behavior_accuracy': 1 - 1 / n}
        lines.append(line | norms if tokens else {**line, 'behavior_accuracy': 0.0})
    return lines
