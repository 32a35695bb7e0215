"""Scoring: every branch of every record in one pass over packed prompts."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bsft_jax.behaviorbench.records import Record, label_of
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError
from bsft_jax.evaluation.metrics import category_of
from bsft_jax.hub.model import Model
from bsft_jax.inference import policies
from bsft_jax.inference.branches import BranchBatch, BranchPlan, branch_lengths
from bsft_jax.inference.policies import Scores
from bsft_jax.models import head
from bsft_jax.models.attention import Layout
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.trees import fetch


def renderer_of(model: Model) -> Renderer:
    """The renderer that fits a model: its tokenizer, behaviors and answer format."""
    return Renderer(model.tokenizer, model.behaviors, answer_format=model.answer_format)


def leave_out_long(
    records: Sequence[Record],
    renderer: Renderer,
    network: Network,
    drop_long: float,
    *,
    where: str = '--drop_long',
) -> list[Record]:
    """The records whose prompt and longest branch fit the model's positions.

    Raises UserError when more than the share `drop_long` does not, or none does.
    """
    limit = network.arch.max_positions
    lengths = branch_lengths(records, renderer)
    kept = [record for record, length in zip(records, lengths, strict=True) if length <= limit]
    if len(records) - len(kept) > drop_long * len(records) or not kept:
        raise UserError(
            f'{len(records) - len(kept)} of {len(records)} records do not fit the {limit} positions of the model, '
            f'the longest has {max(lengths)} tokens',
            where=where,
            fix='raise that share to leave them out, or show fewer examples in the prompt',
        )
    return kept


def slot_logprobs(
    network: Network, params: Params, batch: BranchBatch, slots: int, documents: int
) -> jax.Array:
    """Log-probability sums [B, slots] of one batch: prompts once, `documents` in a row at most, then all branches."""
    decoder = network.bind(params)
    layout = Layout(batch.segment_ids_BT, batch.positions_BT, documents=documents)
    prompt_BTD, view = decoder(batch.tokens_BT, layout)
    suffix = Layout(
        batch.suffix_segment_ids_BS, batch.suffix_positions_BS, batch.suffix_branch_BS, batch.suffix_leaf_BS
    )
    suffix_BSD, _ = decoder(batch.suffix_tokens_BS, suffix, view)
    hidden_BTD = jnp.concatenate([prompt_BTD, suffix_BSD], axis=1)
    hidden_BMD = jnp.take_along_axis(hidden_BTD, batch.source_BM[..., None], axis=1)
    logprob_BM = head.target_logprobs(decoder, hidden_BMD, batch.target_BM)
    sums = jnp.zeros((logprob_BM.shape[0], slots + 1))
    rows_B1 = jnp.arange(logprob_BM.shape[0])[:, None]
    return sums.at[rows_B1, batch.slot_BM].add(logprob_BM)[:, :slots]


class Scorer:
    """Scores a fixed list of records with any parameters of one network; compiled once.

    Args:
      records: each with options and within the model's positions; `policy` also needs answers.
      renderer: of the model that scores.
      policy: counted on the device as confusion_COO; None counts nothing.
      tokens_per_batch: about how many prompt tokens a device sees at a time.
    """

    def __init__(
        self,
        records: Sequence[Record],
        renderer: Renderer,
        network: Network,
        mesh,
        *,
        policy: str | None = None,
        tokens_per_batch: int = 8192,
    ):
        self._records, self._mesh, self._behaviors = records, mesh, renderer.behaviors
        self._n = len(renderer.behaviors.heads)
        shards = mesh_lib.batch_shards(mesh)
        self._plan = BranchPlan(
            records, renderer, tokens_per_batch=tokens_per_batch * shards, row_multiple=shards
        )
        if self._plan.longest > network.arch.max_positions:
            leave_out_long(records, renderer, network, drop_long=0.0)
        self._policy = policies.parse(policy, renderer.behaviors) if policy else None
        self._labels_N = policies.labels(records, renderer.behaviors, self._policy or policies.Policy('none'))
        names_N = [category_of(vars(record)) for record in records]
        self._categories = sorted(set(names_N)) if policy else []
        if policy:
            self._answers_N = np.asarray([-1 if r.answer is None else r.answer for r in records], np.int32)
            if (self._answers_N < 0).any():
                raise UserError(f'{label_of(records[int(np.argmin(self._answers_N))])} has no answer')
            self._category_N = np.asarray([self._categories.index(name) for name in names_N], np.int32)
        self._run = jax.jit(self._score, static_argnums=(0,))

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._plan)

    def _score(self, network: Network, params: Params, batch: BranchBatch, places, confusion):
        """Sums of a batch by place, and the confusion counts with this batch added."""
        plan, n = self._plan, self._n
        sums_BRX = slot_logprobs(network, params, batch, plan.R * plan.slots, plan.R).reshape(
            plan.B, plan.R, plan.slots
        )
        behavior_BRn = sums_BRX[..., :n]
        option_BRXO = sums_BRX[..., n:].reshape(plan.B, plan.R, n + 1, plan.width)
        exists_BRO = jnp.arange(plan.width) < places['options'][..., None]
        option_BRXO = jnp.where(exists_BRO[:, :, None], option_BRXO, -jnp.inf)
        if self._policy is not None:
            branch_BR = policies.choose_branch(self._policy, behavior_BRn, places['label'], jnp)
            chosen_BRO = jnp.take_along_axis(option_BRXO, branch_BR[..., None, None], axis=2)[:, :, 0]
            index = (places['category'], places['answer'], jnp.argmax(chosen_BRO, axis=-1))
            confusion = confusion.at[index].add(places['valid'])
        return behavior_BRn, option_BRXO, confusion

    def __call__(self, network: Network, params: Params, on_batch=lambda: None) -> Scores:
        """Runs all batches, each read when the next is on its way; `on_batch` is called after each (a progress bar)."""
        plan, N = self._plan, len(self._records)
        behavior_Nn = np.zeros((N, self._n), np.float32)
        option_NBO = np.full((N, self._n + 1, plan.width), -np.inf, np.float32)
        rows, whole = sharding.row_sharding(self._mesh), sharding.replicated(self._mesh)
        C, pending = len(self._categories), None

        def collect(record_BR, sums):
            there = record_BR >= 0
            for found_N, sums_BR in zip((behavior_Nn, option_NBO), map(fetch, sums), strict=True):
                found_N[record_BR[there]] = sums_BR[there]
            on_batch()

        with jax.set_mesh(self._mesh):
            confusion = sharding.spread(np.zeros((C, plan.width, plan.width), np.int32), whole)
            for batch, record_BR in plan.batches():
                there = record_BR >= 0
                places = {
                    'options': np.where(there, (plan.option_tokens_RO > 0).sum(1)[record_BR], 1),
                    'label': self._labels_N[record_BR],
                    'valid': there.astype(np.int32),
                }
                if self._policy is not None:
                    places['answer'] = self._answers_N[record_BR]
                    places['category'] = self._category_N[record_BR]
                batch, places = sharding.spread((batch, places), rows)
                *sums, confusion = self._run(network, params, batch, places, confusion)
                if pending:
                    collect(*pending)
                pending = record_BR, sums
            collect(*pending)
        counts = np.asarray(confusion) if self._policy is not None else None
        return Scores(self._behaviors, behavior_Nn, option_NBO, plan.option_tokens_RO, counts)

    @property
    def categories(self) -> list[str]:
        """Names along the first axis of `confusion_COO`."""
        return self._categories
