"""Tests of answer prefixes of several tokens, and of a constant one.

Scores and answers are compared with brute force, and exports are read again.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import Behavior
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from bsft_jax.inference import policies, scoring
from tests.tiny import assert_close

# Names of different lengths make prefixes of different lengths.
BEHAVIORS = (
    Behavior('reactive', 0.0, 'answer only what was asked'),
    Behavior('raises_what_was_overlooked', 1.0, 'more'),
)
NAMES = tuple(b.name for b in BEHAVIORS)
LENGTH = 448


@pytest.fixture(scope='module')
def models(base):
    def load(kind):
        spec = pretrained.read_pretrained(str(base), behaviors=BEHAVIORS, prefix_kind=kind)
        return dataclasses.replace(pretrained.load_pretrained(spec), answer_format='text')

    return {kind: load(kind) for kind in ('words', 'neutral')}


@pytest.fixture(scope='module')
def records():
    names = {'reactive': NAMES[0], 'proactive': NAMES[1]}
    loaded = sources.load_records('synthetic:40', 'train')[:9]
    return [dataclasses.replace(record, behavior=names[record.behavior]) for record in loaded]


def logprob_after(model, start, ids):
    """Returns Σ log p of `ids` after `start`, from one row through the whole model."""
    row = [*start, *ids] + [0] * (LENGTH - len(start) - len(ids))
    table = np.asarray(jax.nn.log_softmax(model.logits([row])[0]))
    return sum(table[len(start) + i - 1, token] for i, token in enumerate(ids))


@pytest.mark.parametrize('kind', ['words', 'neutral'])
def test_scores_equal_one_branch_at_a_time(models, records, kind):
    model = models[kind]
    texts = {'words': [f'Behavior: {name}\n' for name in NAMES], 'neutral': ['<|neutral|>']}[kind]
    prefixes = [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert tuple(map(tuple, prefixes)) == model.behaviors.prefixes
    assert kind == 'neutral' or 1 < len(prefixes[0]) < len(prefixes[1])
    renderer, scores = scoring.renderer_of(model), bsft_jax.score_records(model, records)
    assert scores.behavior_logprob_Rn.shape == (len(records), len(prefixes))
    for i, record in enumerate(records[:3]):
        prompt = renderer.prompt_ids(record)
        example = renderer.example(record).ids[len(prompt) :].tolist()
        trained = prefixes[NAMES.index(record.behavior)] if kind == 'words' else prefixes[0]
        assert example[: len(trained)] == trained
        expected = [logprob_after(model, prompt, prefix) for prefix in prefixes]
        assert_close(scores.behavior_logprob_Rn[i], np.asarray(expected), 1e-4)
        for branch, prefix in enumerate([[], *prefixes]):
            for o, option in enumerate(renderer.option_ids(record)):
                value = logprob_after(model, prompt + prefix + renderer.stem_ids, option)
                difference = abs(scores.option_logprob_RWK[i, branch, o] - value)
                assert difference < 1e-4 * max(1, abs(value))


def test_words_are_chosen_like_tokens(models, records):
    scores = bsft_jax.score_records(models['words'], records)
    metrics = bsft_jax.compute_metrics(records, scores)
    assert metrics['selection']['n'] == len(records) and metrics['selection']['auroc'] is not None
    for policy in (f'forced:{NAMES[1]}', 'oracle', 'none'):
        bsft_jax.compute_metrics(records, scores, policy)


def test_a_constant_prefix_chooses_nothing(models, records):
    scores = bsft_jax.score_records(models['neutral'], records)
    metrics = bsft_jax.compute_metrics(records, scores)
    assert metrics['selection'] is None and metrics['intervention']['flip_rate'] is None
    rows = policies.predictions(records, scores)
    for i, row in enumerate(rows):
        assert row['behavior_prediction'] is None and row['behavior_logprobs'] is None
        assert list(row['option_logprobs']) == ['none', 'neutral']
        assert row['prediction'] == int(np.argmax(scores.option_logprob_RWK[i, 1]))
    assert scores.behaviors.highest == NAMES[1]
    for policy in ('oracle', 'forced:neutral', f'forced:{NAMES[0]}'):
        with pytest.raises(UserError, match='needs behaviors to choose from'):
            bsft_jax.compute_metrics(records, scores, policy)


@pytest.mark.parametrize('kind', ['words', 'neutral'])
def test_greedy_answers_begin_with_the_prefix(models, records, kind):
    model = models[kind]
    renderer, new = scoring.renderer_of(model), 36
    scores = bsft_jax.score_records(model, records)
    for policy in ('auto', f'forced:{NAMES[1]}') if kind == 'words' else ('auto',):
        answers = bsft_jax.generate_answers(model, records[:2], policy, max_new_tokens=new)
        for i, (record, answer) in enumerate(zip(records[:2], answers, strict=True)):
            chosen = int(np.argmax(scores.behavior_logprob_Rn[i])) if policy == 'auto' else 1
            prefix = list(model.behaviors.prefixes[chosen])
            prompt, ids = renderer.prompt_ids(record), list(prefix)
            while len(ids) < new:
                row = [prompt + ids + [0] * (LENGTH - len(prompt) - len(ids))]
                best = int(np.argmax(np.asarray(model.logits(row))[0, len(prompt) + len(ids) - 1]))
                if best == renderer.stop_id:
                    break
                ids.append(best)
            assert len(prefix) < new and answer['ids'] == ids
            assert answer['text'] == model.tokenizer.decode(
                [t for t in ids[len(prefix) :] if t not in model.behaviors.ids]
            )
            if kind == 'neutral':
                assert answer['behavior'] is None and answer['behavior_logprobs'] is None
            else:
                assert answer['behavior'] == NAMES[chosen]
                values = [answer['behavior_logprobs'][name] for name in NAMES]
                assert_close(np.asarray(values), scores.behavior_logprob_Rn[i], 1e-4)


@pytest.mark.parametrize('kind', ['words', 'neutral'])
def test_an_export_keeps_the_prefixes(models, records, kind, tmp_path):
    model = models[kind]
    if kind == 'neutral':
        # Training would change the row, too.
        model.params['behavior']['input'] += 0.25
    path = bsft_jax.save_model(model, tmp_path / 'out')
    again = bsft_jax.load_model(path)
    assert again.behaviors == model.behaviors and again.answer_format == 'text'
    before, after = (bsft_jax.score_records(m, records) for m in (model, again))
    assert_close(after.option_logprob_RWK, before.option_logprob_RWK, 1e-5)
    assert_close(after.behavior_logprob_Rn, before.behavior_logprob_Rn, 1e-5)
    stored = json.loads((path / 'config.json').read_text())['bsft']
    assert stored['prefix_kind'] == kind
    assert [prefix['ids'] for prefix in stored['prefixes']] == [
        list(prefix) for prefix in model.behaviors.prefixes
    ]
    text = '<|neutral|>' if kind == 'neutral' else 'Behavior: reactive\n'
    assert stored['prefixes'][0]['text'] == text


def test_a_run_of_another_arm_starts_from_an_export(models, tmp_path):
    path = bsft_jax.save_model(models['neutral'], tmp_path / 'out')
    spec = pretrained.read_pretrained(str(path), behaviors=BEHAVIORS)
    assert spec.behaviors.prefix_kind == 'tokens' and spec.exported_names == {'neutral'}
    assert not set(spec.behaviors.ids) & set(models['neutral'].behaviors.ids)
    plain = pretrained.read_pretrained(str(path), behaviors=BEHAVIORS, prefix_kind='none')
    assert plain.behaviors.prefixes == () and plain.network.behavior_ids == ()
