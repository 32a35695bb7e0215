"""Tests of decoding: greedy answers without a cache, and sampling that no other prompt changes."""

import dataclasses
import json

import numpy as np
import pytest

import bsft_jax
from bsft_jax.errors import UserError
from bsft_jax.inference import decoding, scoring


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


def test_sampling_depends_on_seed_and_record_not_on_the_batch(model, records):
    renderer = scoring.renderer_of(model)
    prompts = [renderer.prompt_ids(record) for record in records[:4]]

    def run(prompts, seed=0, **options):
        sampling = decoding.Sampling(max_new_tokens=8, seed=seed, **options)
        generations = decoding.generate(
            model, prompts, policy='none', stop_id=renderer.stop_id, sampling=sampling, **batch
        )
        return [generation.ids for generation in generations]

    batch = {}
    together = run(prompts, temperature=1.0)
    assert run(prompts, temperature=1.0) == together != run(prompts, seed=1, temperature=1.0)
    batch = {'tokens_per_batch': 1}
    assert run(prompts, temperature=1.0) == together
    assert run(prompts, temperature=1.0, top_p=1e-6) == run(prompts)
    short, long = [prompt[-100:] for prompt in prompts], prompts[0] + prompts[0][-1:] * 300
    decoding._decode.clear_cache()
    mixed = run([short[0], long, *short[1:]])
    # The short prompts are not padded to the long one, so there are two programs.
    assert decoding._decode._cache_size() == 2
    assert [mixed[0], *mixed[2:]] == run(short)
    for invalid in ({'temperature': -1.0}, {'top_p': 0.0}, {'max_new_tokens': 0}):
        with pytest.raises(UserError):
            decoding.Sampling(**invalid).validate()
    with pytest.raises(UserError, match='exceed the 512 positions'):
        decoding.generate(
            model, prompts, policy='none', stop_id=2, sampling=decoding.Sampling(max_new_tokens=500)
        )


@pytest.mark.parametrize(
    ('generation', 'config'),
    [(1, None), ([1, 2], None), ([2, 1], [0]), (None, [2, 1]), ('absent', 1)],
)
def test_every_end_that_the_models_own_files_name_ends_an_answer(
    model, records, tmp_path, generation, config
):
    renderer = scoring.renderer_of(model)
    prompts, stop = [renderer.prompt_ids(record) for record in records[:2]], renderer.stop_id

    def run(model):
        generations = decoding.generate(
            model,
            prompts,
            policy='none',
            stop_id=stop,
            sampling=decoding.Sampling(max_new_tokens=8),
        )
        return [generation.ids for generation in generations]

    def with_files(generation, config):
        spec = dataclasses.replace(
            model.spec,
            directory=tmp_path,
            hf_config=model.spec.hf_config | {'eos_token_id': config},
        )
        if generation != 'absent':
            stored = json.dumps({'eos_token_id': generation, 'do_sample': True})
            (tmp_path / 'generation_config.json').write_text(stored)
        return dataclasses.replace(model, spec=spec)

    endless = run(with_files('absent', None))
    # Stands for 1 and 2: what the first answer says at its third place, and the stop.
    ids = {1: endless[0][2], 2: stop, 0: endless[0][1]}
    named = [
        [ids[i] for i in end] if isinstance(end, list) else ids.get(end, end)
        for end in (generation, config)
    ]
    ends = [
        answer[: min([answer.index(i) for i in (ids[1],) if i in answer], default=8)]
        for answer in endless
    ]
    assert run(with_files(*named)) == ends != endless
