"""Heads of several tokens and a constant one: scores and answers by brute force, and their export."""

import json

import jax
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviorbench import sources
from bsft_jax.behaviors import Behavior
from bsft_jax.errors import UserError
from bsft_jax.hub import model as model_lib
from bsft_jax.inference import scoring
from tests.tiny import assert_close, random_model

# Names of different lengths: heads of different lengths.
BEHAVIORS = (
    Behavior('reactive', 0.0, 'answer only what was asked'),
    Behavior('raises_what_was_overlooked', 1.0, 'more'),
)
NAMES = tuple(b.name for b in BEHAVIORS)
LENGTH = 448


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def models(directory):
    return {
        form: model_lib.load(
            model_lib.open_base(str(directory), behaviors=BEHAVIORS, form=form), answer_format='text'
        )
        for form in ('words', 'neutral')
    }


@pytest.fixture(scope='module')
def records():
    import dataclasses

    names = {'reactive': NAMES[0], 'proactive': NAMES[1]}
    loaded = sources.load_records('synthetic:40', 'train')[:9]
    return [dataclasses.replace(record, behavior=names[record.behavior]) for record in loaded]


def sum_behind(model, start, ids):
    """Σ log p of `ids` behind `start`, one row through the whole model."""
    row = [*start, *ids] + [0] * (LENGTH - len(start) - len(ids))
    table = np.asarray(jax.nn.log_softmax(model.logits([row])[0]))
    return sum(table[len(start) + i - 1, token] for i, token in enumerate(ids))


@pytest.mark.parametrize('form', ['words', 'neutral'])
def test_scores_equal_one_branch_at_a_time(models, records, form):
    model = models[form]
    texts = {'words': [f'Behavior: {name}\n' for name in NAMES], 'neutral': ['<|neutral|>']}[form]
    heads = [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert tuple(map(tuple, heads)) == model.behaviors.heads
    assert form == 'neutral' or 1 < len(heads[0]) < len(heads[1])
    renderer, scores = scoring.renderer_of(model), bsft_jax.score_records(model, records)
    assert scores.behavior_logprob_Nn.shape == (len(records), len(heads))
    for i, record in enumerate(records[:3]):
        prompt = renderer.prompt_ids(record)
        example = renderer.example(record).ids[len(prompt) :].tolist()
        trained = heads[NAMES.index(record.behavior)] if form == 'words' else heads[0]
        assert example[: len(trained)] == trained
        expected = [sum_behind(model, prompt, head) for head in heads]
        assert_close(scores.behavior_logprob_Nn[i], np.asarray(expected), 1e-4)
        for branch, head in enumerate([[], *heads]):
            for o, option in enumerate(renderer.option_ids(record)):
                value = sum_behind(model, prompt + head + renderer.stem_ids, option)
                assert abs(scores.option_logprob_NBO[i, branch, o] - value) < 1e-4 * max(1, abs(value))


def test_words_are_chosen_like_tokens(models, records):
    scores = bsft_jax.score_records(models['words'], records)
    metrics = bsft_jax.compute_metrics(records, scores)
    assert metrics['selection']['n'] == len(records) and metrics['selection']['auroc'] is not None
    for policy in (f'forced:{NAMES[1]}', 'oracle', 'none'):
        bsft_jax.compute_metrics(records, scores, policy)


def test_a_constant_head_chooses_nothing(models, records):
    from bsft_jax.inference import policies

    scores = bsft_jax.score_records(models['neutral'], records)
    metrics = bsft_jax.compute_metrics(records, scores)
    assert metrics['selection'] is None and metrics['intervention']['flip_rate'] is None
    rows = policies.predictions(records, scores)
    for i, row in enumerate(rows):
        assert row['behavior_prediction'] is None and row['behavior_logprobs'] is None
        assert list(row['option_logprobs']) == ['none', 'neutral']
        assert row['prediction'] == int(np.argmax(scores.option_logprob_NBO[i, 1]))
    assert scores.behaviors.highest == NAMES[1]
    for policy in ('oracle', 'forced:neutral', f'forced:{NAMES[0]}'):
        with pytest.raises(UserError, match='needs behaviors to choose from'):
            bsft_jax.compute_metrics(records, scores, policy)


@pytest.mark.parametrize('form', ['words', 'neutral'])
def test_greedy_answers_begin_with_the_head(models, records, form):
    model = models[form]
    renderer, new = scoring.renderer_of(model), 36
    scores = bsft_jax.score_records(model, records)
    policies = ('auto', f'forced:{NAMES[1]}') if form == 'words' else ('auto',)
    for policy in policies:
        answers = bsft_jax.generate_answers(model, records[:2], policy, max_new_tokens=new)
        for i, (record, answer) in enumerate(zip(records[:2], answers, strict=True)):
            chosen = int(np.argmax(scores.behavior_logprob_Nn[i])) if policy == 'auto' else 1
            head = list(model.behaviors.heads[chosen])
            prompt, ids = renderer.prompt_ids(record), list(head)
            while len(ids) < new:
                row = [prompt + ids + [0] * (LENGTH - len(prompt) - len(ids))]
                best = int(np.argmax(np.asarray(model.logits(row))[0, len(prompt) + len(ids) - 1]))
                if best == renderer.stop_id:
                    break
                ids.append(best)
            assert len(head) < new and answer['ids'] == ids
            assert answer['text'] == model.tokenizer.decode(
                [t for t in ids[len(head) :] if t not in model.behaviors.ids]
            )
            if form == 'neutral':
                assert answer['behavior'] is None and answer['behavior_logprobs'] is None
            else:
                assert answer['behavior'] == NAMES[chosen]
                values = [answer['behavior_logprobs'][name] for name in NAMES]
                assert_close(np.asarray(values), scores.behavior_logprob_Nn[i], 1e-4)


@pytest.mark.parametrize('form', ['words', 'neutral'])
def test_an_export_keeps_the_heads(models, records, form, tmp_path):
    model = models[form]
    if form == 'neutral':
        model.params['behavior']['input'] += 0.25  # as training would
    path = bsft_jax.save_model(model, tmp_path / 'out')
    again = bsft_jax.load_model(path)
    assert again.behaviors == model.behaviors and again.answer_format == 'text'
    before, after = (bsft_jax.score_records(m, records) for m in (model, again))
    assert_close(after.option_logprob_NBO, before.option_logprob_NBO, 1e-5)
    assert_close(after.behavior_logprob_Nn, before.behavior_logprob_Nn, 1e-5)
    stored = json.loads((path / 'config.json').read_text())['bsft']
    assert stored['form'] == form
    assert [head['ids'] for head in stored['heads']] == [list(head) for head in model.behaviors.heads]
    assert stored['heads'][0]['text'] == ('<|neutral|>' if form == 'neutral' else 'Behavior: reactive\n')


def test_a_run_of_another_arm_starts_from_an_export(models, directory, tmp_path):
    path = bsft_jax.save_model(models['neutral'], tmp_path / 'out')
    base = model_lib.open_base(str(path), behaviors=BEHAVIORS)
    assert base.behaviors.form == 'tokens' and base.known == {'neutral'}
    assert not set(base.behaviors.ids) & set(models['neutral'].behaviors.ids)
    plain = model_lib.open_base(str(path), behaviors=BEHAVIORS, form='none')
    assert plain.behaviors.heads == () and plain.network.behavior_ids == ()
