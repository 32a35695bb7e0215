"""Tests of policies: those that a model cannot follow, and the label that `oracle` reads."""

import pytest

import bsft_jax
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from bsft_jax.records.record import Message, Record


def test_policies_that_do_not_fit_are_refused(model, records):
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
    plain = pretrained.load_pretrained(pretrained.read_pretrained(str(model.spec.directory)))
    scores = bsft_jax.score_records(plain, records[:2])
    assert bsft_jax.compute_metrics(records[:2], scores)['selection'] is None
    with pytest.raises(UserError, match='needs behaviors to choose from'):
        bsft_jax.compute_metrics(records[:2], scores, 'forced:reactive')


def test_oracle_reads_the_label_of_the_turn_to_answer(model):
    """Tests a label on the last turn of a conversation, where training reads it too."""
    turns = (Message('user', 'K 5.9?'), Message('assistant', 'Stop it.', behavior='proactive'))
    [answer] = bsft_jax.generate_answers(
        model, [Record(turns, id='chat')], 'oracle', max_new_tokens=2
    )
    assert answer['behavior'] == 'proactive'
