"""Scores against torch on the exported model, one record and one branch at a time; and decoding."""

import dataclasses
import json

import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import MeshSection
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.hub import model as model_lib
from bsft_jax.inference import decoding, policies, scoring
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import NO_TORCH, assert_close, random_model


@pytest.fixture(scope='module')
def records():
    return sources.load_records('synthetic:40', 'train')[:37]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    directory = random_model(tmp_path_factory.mktemp('base'))
    base = model_lib.open_base(str(directory), behaviors=DEFAULT_BEHAVIORS)
    return model_lib.load(base, answer_format='text')


@pytest.mark.parametrize('answer_format', ['letter', 'text'])
def test_log_probabilities_equal_torch_on_the_export(model, records, answer_format, tmp_path):
    torch = pytest.importorskip('torch', reason=NO_TORCH)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = dataclasses.replace(model, answer_format=answer_format)
    path = bsft_jax.save_model(model, tmp_path / 'export')
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    scores = bsft_jax.score_records(model, records)
    renderer = scoring.renderer_of(model)
    behavior_ids = tokenizer.convert_tokens_to_ids(['<|reactive|>', '<|proactive|>'])
    assert tuple(behavior_ids) == model.behaviors.ids

    def logprobs(ids):
        with torch.no_grad():
            return theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()

    for i, record in enumerate(records[:6]):
        prompt = renderer.prompt_ids(record)
        assert_close(scores.behavior_logprob_Nn[i], logprobs(prompt)[-1, behavior_ids], 1e-4)
        for branch, head in enumerate([[], [behavior_ids[0]], [behavior_ids[1]]]):
            for o, option in enumerate(renderer.option_ids(record)):
                start = prompt + head + renderer.stem_ids
                table = logprobs(start + option)
                expected = sum(table[len(start) + t - 1, token] for t, token in enumerate(option))
                assert abs(scores.option_logprob_NBO[i, branch, o] - expected) < 1e-4 * max(1, abs(expected))


def test_scores_do_not_depend_on_batches_or_mesh(model, records):
    whole = bsft_jax.score_records(model, records)
    renderer = scoring.renderer_of(model)
    one_by_one = scoring.Scorer(records[:5], renderer, model.network, model.mesh, tokens_per_batch=1)
    assert len(one_by_one) > 1
    small = one_by_one(model.network, model.params)
    assert_close(small.option_logprob_NBO, whole.option_logprob_NBO[:5], 1e-5)
    for sizes in ((8, 1, 1, 1), (2, 2, 1, 2), (1, 2, 2, 2)):
        mesh = mesh_lib.make_mesh(MeshSection(*sizes))
        spread = model_lib.load(model.base, mesh, model.answer_format)
        scorer = scoring.Scorer(records, renderer, model.network, mesh, policy='auto', tokens_per_batch=128)
        scores = scorer(spread.network, spread.params)
        assert_close(scores.option_logprob_NBO, whole.option_logprob_NBO, 1e-4)
        assert_close(scores.behavior_logprob_Nn, whole.behavior_logprob_Nn, 1e-4)


@pytest.mark.parametrize('policy', ['auto', 'none', 'oracle', 'forced:reactive', 'forced:proactive'])
def test_device_counts_equal_the_rows_and_scikit_learn(model, records, policy):
    from sklearn.metrics import f1_score

    mesh = mesh_lib.make_mesh(MeshSection())
    spread = model_lib.load(model.base, mesh, model.answer_format)
    scorer = scoring.Scorer(
        records, scoring.renderer_of(model), model.network, mesh, policy=policy, tokens_per_batch=300
    )
    scores = scorer(spread.network, spread.params)
    rows = policies.predictions(records, scores, policy)
    counted = metrics_lib.metrics_from_confusion(scores.confusion_COO, scorer.categories)
    assert scores.confusion_COO.sum() == len(records)
    per_category = {}
    for category in scorer.categories:
        chosen = [row for row in rows if row['category'] == category]
        columns = [[row[name] for row in chosen] for name in ('answer', 'prediction')]
        per_category[category] = f1_score(*columns, average='macro', zero_division=0)
    assert counted['categories'] == pytest.approx(per_category, abs=1e-6)
    assert counted['overall'] == pytest.approx(np.mean(list(per_category.values())), abs=1e-6)
    pooled = f1_score(
        [r['answer'] for r in rows], [r['prediction'] for r in rows], average='macro', zero_division=0
    )
    assert counted['macro_f1_pooled'] == pytest.approx(pooled, abs=1e-6)
    chosen = {row['behavior_prediction'] for row in rows}
    if policy.startswith('forced'):
        assert chosen == {policy.split(':')[1]}
    elif policy == 'oracle':
        assert [row['behavior_prediction'] for row in rows] == [record.behavior for record in records]
    elif policy == 'none':
        assert chosen == {None}


def test_records_without_category_or_behavior(model, records):
    bare = [dataclasses.replace(r, category='', group='', behavior='') for r in records[:4]]
    renderer = scoring.renderer_of(model)
    scorer = scoring.Scorer(bare, renderer, model.network, model.mesh, policy='auto')
    scores = scorer(model.network, model.params)
    metrics = bsft_jax.compute_metrics(bare, scores)
    assert scorer.categories == [''] and metrics['overall']['n'] == 4 and metrics['selection'] is None
    for call in (
        lambda: scoring.Scorer(bare, renderer, model.network, model.mesh, policy='oracle'),
        lambda: bsft_jax.compute_metrics(bare, scores, 'oracle'),
        lambda: bsft_jax.generate_answers(model, bare, 'oracle'),
    ):
        with pytest.raises(UserError, match='has no behavior of this model'):
            call()


def test_a_label_on_the_answer_to_come_is_the_records(model):
    """As in training, where the last turn of a conversation may carry it."""
    turns = (Message('user', 'K 5.9?'), Message('assistant', 'Stop it.', behavior='proactive'))
    [answer] = bsft_jax.generate_answers(model, [Record(turns, id='chat')], 'oracle', max_new_tokens=2)
    assert answer['behavior'] == 'proactive'


def test_records_of_a_group_without_a_category_score_alike_on_the_device_and_in_the_rows(model, records):
    bare = [dataclasses.replace(r, category='') for r in records[:20]]
    scorer = scoring.Scorer(bare, scoring.renderer_of(model), model.network, model.mesh, policy='auto')
    scores = scorer(model.network, model.params)
    assert scorer.categories == sorted({r.group for r in bare}) and len(scorer.categories) == 3
    by_rows = bsft_jax.compute_metrics(bare, scores)['groups']
    counted = metrics_lib.metrics_from_confusion(scores.confusion_COO, scorer.categories)['groups']
    assert counted == pytest.approx({group: entry['macro_f1'] for group, entry in by_rows.items()})


def test_a_record_without_an_id_is_named_by_its_words(model, records):
    unanswered = dataclasses.replace(records[0], id='', answer=None, behavior='')
    renderer = scoring.renderer_of(model)
    for policy, message in (
        ('auto', 'that begins .* has no answer'),
        ('oracle', 'that begins .* has no behavior'),
    ):
        with pytest.raises(UserError, match=message):
            scoring.Scorer([unanswered], renderer, model.network, model.mesh, policy=policy)


def test_long_records_are_left_out_only_where_allowed(model, records):
    long = dataclasses.replace(records[0], id='long', messages=records[0].messages * 8)
    renderer = scoring.renderer_of(model)
    with pytest.raises(UserError, match='1 of 38 records do not fit the 512 positions'):
        bsft_jax.score_records(model, [*records, long])
    with pytest.raises(UserError, match='--drop_long'):
        scoring.leave_out_long([*records, long], renderer, model.network, 0.01)
    assert scoring.leave_out_long([*records, long], renderer, model.network, 0.1) == records


def test_policies_that_do_not_fit_say_so(model, records):
    scores = bsft_jax.score_records(model, records[:2])
    for policy, message in (
        ('best', 'unknown policy'),
        ('forced', 'unknown policy'),
        ('auto:reactive', 'unknown policy'),
        ('forced:gentle', 'unknown behavior'),
    ):
        with pytest.raises(UserError, match=message):
            bsft_jax.compute_metrics(records[:2], scores, policy)
    with pytest.raises(UserError, match='prompt style'):
        bsft_jax.score_records(model, records, prompt='poem')
    plain = model_lib.load(model_lib.open_base(str(model.base.directory)))
    scores = bsft_jax.score_records(plain, records[:2])
    assert bsft_jax.compute_metrics(records[:2], scores)['selection'] is None
    with pytest.raises(UserError, match='needs behaviors to choose from'):
        bsft_jax.compute_metrics(records[:2], scores, 'forced:reactive')


def test_greedy_answers_equal_a_run_without_cache(model, records):
    answers = bsft_jax.generate_answers(model, records[:5], max_new_tokens=12)
    renderer = scoring.renderer_of(model)
    for record, answer in zip(records[:5], answers, strict=True):
        prompt = renderer.prompt_ids(record)
        scores = answer['behavior_logprobs']
        ids = [model.behaviors.ids[model.behaviors.index(max(scores, key=scores.get))]]
        while len(ids) < 12:
            row = [prompt + ids + [0] * (448 - len(prompt) - len(ids))]
            best = int(np.argmax(np.asarray(model.logits(row))[0, len(prompt) + len(ids) - 1]))
            if best == renderer.stop_id:
                break
            ids.append(best)
        assert answer['ids'] == ids and answer['behavior'] == max(scores, key=scores.get)
        json.dumps(answer)


def test_sampling_depends_on_seed_and_record_not_on_company(model, records):
    renderer = scoring.renderer_of(model)
    prompts = [renderer.prompt_ids(record) for record in records[:4]]

    def run(prompts, seed=0, **how):
        sampling = decoding.Sampling(max_new_tokens=8, seed=seed, **how)
        made = decoding.generate(
            model, prompts, policy='none', stop_id=renderer.stop_id, sampling=sampling, **batch
        )
        return [generation.ids for generation in made]

    batch = {}
    together = run(prompts, temperature=1.0)
    assert run(prompts, temperature=1.0) == together != run(prompts, seed=1, temperature=1.0)
    batch = {'tokens_per_batch': 1}
    assert run(prompts, temperature=1.0) == together
    assert run(prompts, temperature=1.0, top_p=1e-6) == run(prompts)
    short, long = [prompt[-100:] for prompt in prompts], prompts[0] + prompts[0][-1:] * 300
    decoding._decode.clear_cache()
    mixed = run([short[0], long, *short[1:]])
    assert decoding._decode._cache_size() == 2  # the short ones are not padded to the long one
    assert [mixed[0], *mixed[2:]] == run(short)
    for how in ({'temperature': -1.0}, {'top_p': 0.0}, {'max_new_tokens': 0}):
        with pytest.raises(UserError):
            decoding.Sampling(**how).validate()
    with pytest.raises(UserError, match='exceed the 512 positions'):
        decoding.generate(
            model, prompts, policy='none', stop_id=2, sampling=decoding.Sampling(max_new_tokens=500)
        )
