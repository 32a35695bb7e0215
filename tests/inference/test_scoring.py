"""Tests of scores, also against torch, which scores a record and a branch at a time."""

import dataclasses

import numpy as np
import pytest

import bsft_jax
from bsft_jax.config import MeshConfig
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.hub import pretrained
from bsft_jax.inference import policies, scoring
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import NO_TORCH, assert_close


@pytest.mark.parametrize('answer_format', ['letter', 'text'])
def test_log_probabilities_equal_torch_on_the_export(model, records, answer_format, tmp_path):
    torch = pytest.importorskip('torch', reason=NO_TORCH)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = dataclasses.replace(model, answer_format=answer_format)
    path = bsft_jax.save_model(model, tmp_path / 'export')
    torch_model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    scores = bsft_jax.score_records(model, records)
    renderer = scoring.renderer_of(model)
    behavior_ids = tokenizer.convert_tokens_to_ids(['<|reactive|>', '<|proactive|>'])
    assert tuple(behavior_ids) == model.behaviors.ids

    def logprobs(ids):
        with torch.no_grad():
            return torch_model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()

    for i, record in enumerate(records[:6]):
        prompt = renderer.prompt_ids(record)
        assert_close(scores.behavior_logprob_Rn[i], logprobs(prompt)[-1, behavior_ids], 1e-4)
        for branch, prefix in enumerate([[], [behavior_ids[0]], [behavior_ids[1]]]):
            for o, option in enumerate(renderer.option_ids(record)):
                start = prompt + prefix + renderer.stem_ids
                table = logprobs(start + option)
                expected = sum(table[len(start) + t - 1, token] for t, token in enumerate(option))
                difference = abs(scores.option_logprob_RWK[i, branch, o] - expected)
                assert difference < 1e-4 * max(1, abs(expected))


def test_scores_do_not_depend_on_batches_or_mesh(model, records):
    expected = bsft_jax.score_records(model, records)
    renderer = scoring.renderer_of(model)
    one_by_one = scoring.Scorer(
        records[:5], renderer, model.network, model.mesh, tokens_per_batch=1
    )
    assert len(one_by_one) > 1
    scores = one_by_one(model.network, model.params)
    assert_close(scores.option_logprob_RWK, expected.option_logprob_RWK[:5], 1e-5)
    for sizes in ((8, 1, 1, 1), (2, 2, 1, 2), (1, 2, 2, 2)):
        mesh = mesh_lib.make_mesh(MeshConfig(*sizes))
        sharded = pretrained.load_pretrained(model.spec, mesh)
        scorer = scoring.Scorer(
            records, renderer, model.network, mesh, policy='auto', tokens_per_batch=128
        )
        scores = scorer(sharded.network, sharded.params)
        assert_close(scores.option_logprob_RWK, expected.option_logprob_RWK, 1e-4)
        assert_close(scores.behavior_logprob_Rn, expected.behavior_logprob_Rn, 1e-4)


@pytest.mark.parametrize(
    'policy',
    [
        *('auto', 'none', 'oracle', 'forced:reactive', 'forced:proactive'),
        *('dial:0.05', 'threshold:0.5'),
    ],
)
def test_device_counts_equal_the_rows_and_scikit_learn(model, records, policy):
    from sklearn.metrics import f1_score

    mesh = mesh_lib.make_mesh(MeshConfig())
    sharded = pretrained.load_pretrained(model.spec, mesh)
    scorer = scoring.Scorer(
        records,
        scoring.renderer_of(model),
        model.network,
        mesh,
        policy=policy,
        tokens_per_batch=300,
    )
    scores = scorer(sharded.network, sharded.params)
    rows = policies.predictions(records, scores, policy)
    counted = metrics_lib.metrics_from_confusion(scores.confusion_CKK, scorer.categories)
    assert scores.confusion_CKK.sum() == len(records)

    def macro_f1(rows):
        columns = [[row[name] for row in rows] for name in ('answer', 'prediction')]
        return f1_score(*columns, average='macro', zero_division=0)

    per_category = {
        category: macro_f1([row for row in rows if row['category'] == category])
        for category in scorer.categories
    }
    assert counted['categories'] == pytest.approx(per_category, abs=1e-6)
    assert counted['overall'] == pytest.approx(np.mean(list(per_category.values())), abs=1e-6)
    assert counted['macro_f1_pooled'] == pytest.approx(macro_f1(rows), abs=1e-6)
    chosen = {row['behavior_prediction'] for row in rows}
    if policy.startswith('forced'):
        assert chosen == {policy.split(':')[1]}
    elif policy == 'oracle':
        assert [row['behavior_prediction'] for row in rows] == [
            record.behavior for record in records
        ]
    elif policy == 'none':
        assert chosen == {None}


def test_records_without_category_or_behavior(model, records):
    bare = [dataclasses.replace(r, category='', group='', behavior='') for r in records[:4]]
    renderer = scoring.renderer_of(model)
    scorer = scoring.Scorer(bare, renderer, model.network, model.mesh, policy='auto')
    scores = scorer(model.network, model.params)
    metrics = bsft_jax.compute_metrics(bare, scores)
    assert (
        scorer.categories == [''] and metrics['overall']['n'] == 4 and metrics['selection'] is None
    )
    for call in (
        lambda: scoring.Scorer(bare, renderer, model.network, model.mesh, policy='oracle'),
        lambda: bsft_jax.compute_metrics(bare, scores, 'oracle'),
        lambda: bsft_jax.generate_answers(model, bare, 'oracle'),
    ):
        with pytest.raises(UserError, match='has no behavior of this model'):
            call()


def test_device_counts_equal_the_rows_for_groups_without_categories(model, records):
    bare = [dataclasses.replace(r, category='') for r in records[:20]]
    scorer = scoring.Scorer(
        bare, scoring.renderer_of(model), model.network, model.mesh, policy='auto'
    )
    scores = scorer(model.network, model.params)
    assert scorer.categories == sorted({r.group for r in bare}) and len(scorer.categories) == 3
    by_rows = bsft_jax.compute_metrics(bare, scores)['groups']
    counted = metrics_lib.metrics_from_confusion(scores.confusion_CKK, scorer.categories)['groups']
    assert counted == pytest.approx({group: entry['macro_f1'] for group, entry in by_rows.items()})


def test_errors_quote_a_record_without_an_id(model, records):
    unanswered = dataclasses.replace(records[0], id='', answer=None, behavior='')
    renderer = scoring.renderer_of(model)
    for policy, message in (
        ('auto', 'that begins .* has no answer'),
        ('oracle', 'that begins .* has no behavior'),
    ):
        with pytest.raises(UserError, match=message):
            scoring.Scorer([unanswered], renderer, model.network, model.mesh, policy=policy)


def test_long_records_are_dropped_up_to_the_limit(model, records):
    long = dataclasses.replace(records[0], id='long', messages=records[0].messages * 8)
    renderer = scoring.renderer_of(model)
    with pytest.raises(UserError, match='1 of 38 records do not fit the 512 positions'):
        bsft_jax.score_records(model, [*records, long])
    with pytest.raises(UserError, match='--max_dropped_fraction'):
        scoring.drop_too_long([*records, long], renderer, model.network, 0.01)
    assert scoring.drop_too_long([*records, long], renderer, model.network, 0.1) == records


def test_no_records_are_refused(model):
    for call in (bsft_jax.generate_answers, bsft_jax.score_records):
        with pytest.raises(UserError, match='no records to'):
            call(model, [])
