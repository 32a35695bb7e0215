"""Scoring: every branch of every record in one pass over packed prompts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError
from bsft_jax.evaluation.metrics import category_of
from bsft_jax.hub.pretrained import Model
from bsft_jax.inference import policies
from bsft_jax.inference.branches import BranchBatch, BranchPlan, branch_lengths
from bsft_jax.inference.scores import Scores
from bsft_jax.models import lm_head
from bsft_jax.models.network import Network, Params
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import processes, sharding
from bsft_jax.pytrees import to_host
from bsft_jax.records.record import Record, describe_record


def renderer_of(model: Model) -> Renderer:
    """Returns the renderer with a model's tokenizer, behaviors and answer format."""
    return Renderer(model.tokenizer, model.behaviors, answer_format=model.answer_format)


def drop_too_long(
    records: Sequence[Record],
    renderer: Renderer,
    network: Network,
    max_dropped_fraction: float,
    *,
    where: str = '--max_dropped_fraction',
) -> list[Record]:
    """Returns the records whose prompt and longest branch fit the model's positions.

    Logs how many do not. Raises UserError when that is more than the share `max_dropped_fraction`,
    or all.
    """
    max_positions = network.arch.max_positions
    lengths = branch_lengths(records, renderer)
    fitting = [r for r, length in zip(records, lengths, strict=True) if length <= max_positions]
    dropped = len(records) - len(fitting)
    if dropped > max_dropped_fraction * len(records) or not fitting:
        raise UserError(
            f'{dropped} of {len(records)} records do not fit the {max_positions} positions of the '
            f'model, the longest has {max(lengths)} tokens',
            where=where,
            fix=f'raise {where} to drop them, or show fewer examples in the prompt',
        )
    if dropped:
        processes.log_first(f'{dropped} of {len(records)} records are too long and dropped')
    return fitting


def branch_logprobs(
    network: Network, params: Params, batch: BranchBatch, num_outputs: int, max_segments: int
) -> jax.Array:
    """Returns the log-probability sums [B, num_outputs] of one batch.

    Prompts, `max_segments` in a row at most, run once. Their branches attend to the prompts' cache.
    """
    decoder = network.bind(params)
    layout = TokenLayout(batch.segment_ids_BT, batch.positions_BT, max_segments=max_segments)
    prompt_BTD, cache = decoder(batch.tokens_BT, layout)
    suffix_layout = TokenLayout(
        batch.suffix_segment_ids_BS,
        batch.suffix_positions_BS,
        batch.suffix_branch_BS,
        batch.suffix_leaf_BS,
    )
    suffix_BSD, _ = decoder(batch.suffix_tokens_BS, suffix_layout, cache)
    # Only hidden states that predict a scored token reach the LM head.
    hidden_BTD = jnp.concatenate([prompt_BTD, suffix_BSD], axis=1)
    hidden_BYD = jnp.take_along_axis(hidden_BTD, batch.source_BY[..., None], axis=1)
    logprob_BY = lm_head.target_logprobs(decoder, hidden_BYD, batch.target_BY)
    sums = jnp.zeros((logprob_BY.shape[0], num_outputs + 1))
    row_B1 = jnp.arange(logprob_BY.shape[0])[:, None]
    return sums.at[row_B1, batch.output_index_BY].add(logprob_BY)[:, :num_outputs]


@dataclasses.dataclass(frozen=True)
class ScoreSpec:
    """Describes a scoring program; hashable, since jit takes it as static.

    Attributes:
      num_prefixes: answer prefixes of a record.
      max_options: largest number of options of a record.
      max_records: most records of a row.
      policy: counts predictions under this policy; None counts nothing.
    """

    num_prefixes: int
    max_options: int
    max_records: int
    policy: policies.Policy | None


@functools.partial(jax.jit, static_argnames=('network', 'spec'))
def _score_batch(
    network: Network,
    params: Params,
    batch: BranchBatch,
    fields: dict[str, Any],
    confusion: jax.Array,
    spec: ScoreSpec,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the sums of a batch by record, and the confusion counts with this batch added.

    It belongs to the module, so that every scorer of the same shapes runs one compiled program.
    """
    n, K, R = spec.num_prefixes, spec.max_options, spec.max_records
    num_outputs = n + (n + 1) * K
    B = batch.tokens_BT.shape[0]
    sums = branch_logprobs(network, params, batch, R * num_outputs, R)
    sums_BRX = sums.reshape(B, R, num_outputs)
    behavior_BRn = sums_BRX[..., :n]
    option_BRWK = sums_BRX[..., n:].reshape(B, R, n + 1, K)
    exists_BRK = jnp.arange(K) < fields['num_options'][..., None]
    option_BRWK = jnp.where(exists_BRK[:, :, None], option_BRWK, -jnp.inf)
    if spec.policy is not None:
        branch_BR = policies.choose_branch(spec.policy, behavior_BRn, fields['label'], jnp)
        chosen_BR1K = jnp.take_along_axis(option_BRWK, branch_BR[..., None, None], axis=2)
        prediction_BR = jnp.argmax(chosen_BR1K[:, :, 0], axis=-1)
        index = (fields['category'], fields['answer'], prediction_BR)
        confusion = confusion.at[index].add(fields['valid'])
    return behavior_BRn, option_BRWK, confusion


class Scorer:
    """Scores a fixed list of records with any parameters of one network.

    Args:
      records: records with options that fit the model's positions; `policy` also needs answers.
      renderer: the renderer of the model that scores.
      network: the model's decoder, chosen for `mesh`.
      mesh: the devices.
      policy: counts predictions under this policy on the devices as confusion_CKK; None,
        `mixture` and a dial by category count nothing.
      tokens_per_batch: approximate prompt tokens that a device scores at a time.

    Raises UserError for records that cannot be scored.
    """

    def __init__(
        self,
        records: Sequence[Record],
        renderer: Renderer,
        network: Network,
        mesh: Mesh,
        *,
        policy: str | None = None,
        tokens_per_batch: int = 8192,
    ):
        self._num_records, self._mesh, self._behaviors = len(records), mesh, renderer.behaviors
        self._n = len(renderer.behaviors.prefixes)
        shards = mesh_lib.batch_shards(mesh)
        self._plan = BranchPlan(
            records, renderer, tokens_per_batch=tokens_per_batch * shards, row_multiple=shards
        )
        if self._plan.max_length > network.arch.max_positions:
            drop_too_long(records, renderer, network, max_dropped_fraction=0.0)
        parsed = policies.parse_policy(policy, renderer.behaviors) if policy else None
        # Sums of exponentials need not round alike here and on the host, which would be told apart.
        self._policy = parsed if parsed and parsed.is_by_branch else None
        self._spec = ScoreSpec(self._n, self._plan.max_options, self._plan.R, self._policy)
        # What the devices need to know of each record beside its tokens.
        self._fields = {
            'num_options': self._plan.num_options_R,
            'label': policies.label_indices(
                records, renderer.behaviors, self._policy or policies.Policy('none')
            ),
        }
        self._categories: list[str] = []
        if self._policy is not None:
            names = [category_of(vars(record)) for record in records]
            self._categories = sorted(set(names))
            categories = [self._categories.index(name) for name in names]
            self._fields['category'] = np.asarray(categories, np.int32)
            self._fields['answer'] = _answers(records)

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self._plan)

    @property
    def categories(self) -> list[str]:
        """Returns the names along the first axis of `confusion_CKK`."""
        return self._categories

    def __call__(
        self,
        network: Network,
        params: Params,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> Scores:
        """Runs all batches; `on_batch` is called after each with the number of its records."""
        plan, R, C = self._plan, self._num_records, len(self._categories)
        behavior_Rn = np.zeros((R, self._n), np.float32)
        option_RWK = np.full((R, self._n + 1, plan.max_options), -np.inf, np.float32)
        row_sharding = sharding.row_sharding(self._mesh)
        pending = None

        def collect(record_BR: np.ndarray, sums) -> None:
            valid_BR = record_BR >= 0
            for out, sums_BR in zip((behavior_Rn, option_RWK), map(to_host, sums), strict=True):
                out[record_BR[valid_BR]] = sums_BR[valid_BR]
            on_batch(int(valid_BR.sum()))

        with jax.set_mesh(self._mesh):
            confusion = sharding.to_global(
                np.zeros((C, plan.max_options, plan.max_options), np.int32),
                sharding.replicated(self._mesh),
            )
            for batch, record_BR in plan.batches():
                fields = self._batch_fields(record_BR)
                batch, fields = sharding.to_global((batch, fields), row_sharding)
                *sums, confusion = _score_batch(
                    network, params, batch, fields, confusion, spec=self._spec
                )
                # A batch is read back while the devices compute the next one.
                if pending:
                    collect(*pending)
                pending = record_BR, sums
            collect(*pending)
        confusion_CKK = None if self._policy is None else np.asarray(confusion)
        return Scores(
            self._behaviors, behavior_Rn, option_RWK, confusion_CKK, tuple(self._categories)
        )

    def _batch_fields(self, record_BR: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the fields of a batch's records; those without a record are not valid."""
        valid_BR = record_BR >= 0
        fields = {name: values_R[record_BR] for name, values_R in self._fields.items()}
        # Without a record one option keeps the log-probabilities finite.
        fields['num_options'] = np.where(valid_BR, fields['num_options'], 1)
        fields['valid'] = valid_BR.astype(np.int32)
        return fields


def _answers(records: Sequence[Record]) -> np.ndarray:
    """Returns the answer of each record, int32[R]; raises UserError where one has none."""
    answers_R = np.asarray([-1 if r.answer is None else r.answer for r in records], np.int32)
    if (answers_R < 0).any():
        raise UserError(f'{describe_record(records[int(np.argmin(answers_R))])} has no answer')
    return answers_R
