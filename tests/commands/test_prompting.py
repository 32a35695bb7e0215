"""Tests of prompt styles in `evaluate`, `generate` and the library: shown, named and refused."""

import dataclasses
import json

import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior
from bsft_jax.config import CheckpointConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from bsft_jax.data import prompts, sources
from bsft_jax.errors import UserError
from bsft_jax.inference import decoding
from bsft_jax.inference.decoding import Sampling
from bsft_jax.records.record import Message, write_jsonl
from tests import run as runs

SOURCE = 'synthetic:40'
SHORT = Sampling(max_new_tokens=2)


@pytest.fixture(scope='module')
def model(base):
    return bsft_jax.load_model(base, behaviors=DEFAULT_BEHAVIORS)


@pytest.fixture(scope='module')
def pool():
    return sources.load_records(SOURCE, 'train')


@pytest.fixture(scope='module')
def asked():
    return sources.load_records(SOURCE, 'test')[:6]


@pytest.fixture
def prompts_seen(monkeypatch):
    """Returns a list that holds the prompts of the last generation, as text."""
    seen, original = [], decoding.generate

    def record_prompts(model, prompt_ids, **arguments):
        seen[:] = [model.tokenizer.decode(ids) for ids in prompt_ids]
        return original(model, prompt_ids, **arguments)

    monkeypatch.setattr(decoding, 'generate', record_prompts)
    return seen


def test_a_style_scores_like_the_conversation_written_out(model, pool, asked):
    shown = []
    for record in prompts.choose_exemplars(pool, 1, behaviors=DEFAULT_BEHAVIORS, answered=asked):
        options = [
            f'{letter}. {option}' for letter, option in zip('ABCD', record.options, strict=True)
        ]
        last = record.messages[-1]
        question = dataclasses.replace(last, content='\n'.join([last.content, *options]))
        answer = f'Answer: {"ABCD"[record.answer]}. {record.rationale}'
        shown += [*record.messages[:-1], question, Message('assistant', answer)]
    written = [dataclasses.replace(r, messages=(*shown, *r.messages)) for r in asked]
    scores = bsft_jax.score_records(model, asked, prompt='few_shot:1', examples=pool)
    plain = bsft_jax.score_records(model, written)
    np.testing.assert_array_equal(scores.option_logprob_RWK, plain.option_logprob_RWK)
    assert bsft_jax.compute_metrics(asked, scores)['prompt'] == 'few_shot:1'
    assert bsft_jax.compute_metrics(asked, plain)['prompt'] == 'plain'
    styled = bsft_jax.generate_answers(
        model, asked, max_new_tokens=4, prompt='few_shot:1', examples=pool
    )
    assert styled == bsft_jax.generate_answers(model, written, max_new_tokens=4)
    with pytest.raises(UserError, match='only 0 solved'):
        bsft_jax.score_records(model, asked, prompt='few_shot:1')


@pytest.mark.parametrize(
    'prompt, folder',
    [
        ('plain', 'test-none'),
        ('instructed', 'test-none-instructed'),
        ('few_shot:1', 'test-none-few_shot-1'),
    ],
)
def test_evaluate_names_the_style(base, tmp_path, prompt, folder):
    metrics = runs.evaluate(
        workdir=str(tmp_path),
        model=str(base),
        data=SOURCE,
        prompt=prompt,
        policy='none',
        max_dropped_fraction=0.5,
    )
    assert metrics['prompt'] == prompt and metrics['left_out'] < metrics['overall']['n']
    (path,) = (tmp_path / 'eval').iterdir()
    # The model's name follows.
    assert path.name.startswith(f'{folder}-synthetic-40-')
    assert json.loads((path / 'metrics.json').read_text()) == metrics


def test_examples_come_from_a_train_split(base, asked, prompts_seen, tmp_path):
    path = tmp_path / 'test.jsonl'
    write_jsonl(path, asked)
    evaluate = dict(
        workdir=str(tmp_path), model=str(base), data=f'jsonl:{path}', prompt='few_shot:1'
    )
    with pytest.raises(UserError, match="no record of split 'train'.*--examples"):
        runs.evaluate(**evaluate)
    metrics = runs.evaluate(**evaluate, examples=SOURCE, max_dropped_fraction=0.5)
    assert metrics['prompt'] == 'few_shot:1'
    answer = dict(sampling=SHORT, model=str(base), text='Can I sign this?')
    with pytest.raises(UserError, match='--prompt=few_shot:1: no records to show; .*--examples'):
        runs.generate(**answer, prompt='few_shot:1')
    for prompt, shots in (('plain', 0), ('instructed', 0), ('few_shot:1', 1), ('few_shot:2', 2)):
        runs.generate(**answer, prompt=prompt, examples=SOURCE if shots else '')
        assert prompts_seen[0].count('Answer:') == shots
        assert ('proactive: raise what was overlooked' in prompts_seen[0]) == (
            prompt == 'instructed'
        )
    for call in (
        lambda: runs.generate(**answer, examples=SOURCE),
        lambda: runs.evaluate(**evaluate | {'prompt': 'instructed'}, examples=SOURCE),
    ):
        with pytest.raises(UserError, match='belongs to --prompt=few_shot'):
            call()
    with pytest.raises(UserError, match='--raw uses none'):
        runs.generate(**answer, prompt='instructed', raw=True)
    for call in (runs.generate, runs.evaluate):
        with pytest.raises(UserError, match='^--prompt: unknown'):
            call(**(answer if call is runs.generate else evaluate) | {'prompt': 'poem'})


def test_a_run_without_tokens_describes_its_own_behaviors(base, prompts_seen, tmp_path):
    behaviors = (
        Behavior('terse', 0.0, 'answer the question'),
        Behavior('watchful', 1.0, 'warn of gaps'),
    )
    record = sources.load_records(SOURCE, 'train')[0]
    path, run = tmp_path / 'data.jsonl', tmp_path / 'run'
    write_jsonl(path, [dataclasses.replace(record, behavior='terse', option_behaviors=())])
    config = RunConfig(
        arm='general_sft',
        behaviors=behaviors,
        model=ModelConfig(base=str(base)),
        data=DataConfig(
            source=f'jsonl:{path}', sequence_length=448, global_batch_rows=8, answer_format='text'
        ),
        optimizer=OptimizerConfig(warmup_steps=1, schedule_steps=2),
        checkpoint=CheckpointConfig(interval=1),
    )
    runs.train(config, run)
    model = bsft_jax.load_model(run)
    assert model.behaviors.behaviors_or_default == behaviors and not model.behaviors.ids
    assert model.behaviors.highest == 'watchful'
    answer = dict(sampling=SHORT, workdir=str(run), text='Fine?')
    instructed = runs.generate(**answer, prompt='instructed')[0]
    assert 'watchful: warn of gaps' in prompts_seen[0] and 'proactive' not in prompts_seen[0]
    assert instructed['behavior'] is None and instructed['behavior_logprobs'] is None
    runs.generate(**answer, prompt='few_shot:1')
    assert f'{record.options[record.answer]}. {record.rationale}' in prompts_seen[0]
