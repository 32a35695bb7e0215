"""Decoding with a KV cache: the prompt runs once, then one token at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.hub import ends
from bsft_jax.hub.pretrained import Model
from bsft_jax.inference import policies
from bsft_jax.inference.policies import Policy
from bsft_jax.models import lm_head
from bsft_jax.models.network import Network, Params
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import to_host

# Prompts are padded to a multiple of this.
_LENGTH_MULTIPLE = 64


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Describes how tokens are sampled.

    Attributes:
      max_new_tokens: longest answer in tokens.
      temperature: 0 takes the most probable token.
      top_p: samples from the smallest set of tokens with this probability.
      seed: seed of the sampling.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def validate(self) -> Sampling:
        """Returns itself; raises UserError for values outside their range."""
        if self.max_new_tokens < 1:
            raise UserError(f'{self.max_new_tokens} is below 1', where='--max_new_tokens')
        if not 0 <= self.temperature < math.inf:
            raise UserError(
                f'{self.temperature} must be finite and at least 0', where='--temperature'
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f'{self.top_p} is not in (0, 1]', where='--top_p')
        return self


class PerPrompt(NamedTuple):
    """Holds what belongs to each prompt.

    Attributes:
      labels: indices of the labelled behaviors, for policy `oracle`.
      seeds: numbers of 32 bits, of which sampling keys are made; None takes the indices.
    """

    labels: Sequence[int] | np.ndarray | None = None
    seeds: Sequence[int] | None = None


# Prompts without labels or seeds of their own.
_ALIKE = PerPrompt()


@dataclasses.dataclass(frozen=True)
class Generation:
    """Holds one answer.

    Attributes:
      ids: token ids with the answer prefix, without the stop token.
      behavior: the behavior that was chosen; None without one.
      behavior_logprobs: log-probability of each behavior; None for a model without a choice.
    """

    ids: list[int]
    behavior: str | None
    behavior_logprobs: dict[str, float] | None


class PromptBatch(NamedTuple):
    """Holds B prompts of at most P tokens.

    Attributes:
      tokens_BP: token ids, padded at the end.
      length_B: tokens of each prompt; 0 for padding rows.
      label_B: index of the labelled behavior, for policy `oracle`.
      keys_B: data of the sampling keys.
    """

    tokens_BP: Any
    length_B: Any
    label_B: Any
    keys_B: Any


@dataclasses.dataclass(frozen=True)
class DecodeSpec:
    """Describes a decoding program; hashable, since jit takes it as static.

    Attributes:
      prefixes: token ids of each answer prefix.
      policy: how the behavior is chosen.
      max_new_tokens: longest answer in tokens.
      stop_ids: ids that end an answer; the first one fills what follows.
    """

    prefixes: tuple[tuple[int, ...], ...]
    policy: Policy
    max_new_tokens: int
    stop_ids: tuple[int, ...]


def sample(
    logits_BV: jax.Array, keys_B: jax.Array, temperature: jax.Array, top_p: jax.Array
) -> jax.Array:
    """Samples a token per row.

    Takes the most probable one at temperature 0, else samples from the nucleus (Holtzman et al.,
    arXiv 1904.09751).
    """

    def nucleus():
        scaled_BV = logits_BV / jnp.maximum(temperature, 1e-6)
        order_BV = jnp.argsort(-scaled_BV, axis=-1)
        probs_BV = jax.nn.softmax(jnp.take_along_axis(scaled_BV, order_BV, axis=-1), axis=-1)
        mass_before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
        nucleus_BV = jnp.where(mass_before_BV < top_p, jnp.log(probs_BV), -jnp.inf)
        index_B = jax.vmap(jax.random.categorical)(keys_B, nucleus_BV)
        return jnp.take_along_axis(order_BV, index_B[:, None], axis=-1)[:, 0]

    # Sorting the vocabulary takes longer than a step of a small model, so greedy decoding skips it.
    return jax.lax.cond(temperature == 0, lambda: jnp.argmax(logits_BV, axis=-1), nucleus)


def _prefix_logprobs(decoder, prefixes, logits_BV, cache, length_B) -> jax.Array:
    """Returns the log-probability of each answer prefix after its prompt, [B, n]."""
    first_n = jnp.asarray([prefix[0] for prefix in prefixes], jnp.int32)
    first_Bn = jax.nn.log_softmax(logits_BV)[:, first_n]
    # Every later token of every prefix, as (prefix, index within it).
    later = [(p, i) for p, tokens in enumerate(prefixes) for i in range(1, len(tokens))]
    if not later:
        return first_Bn
    prefix_S, offset_S = np.asarray(later, np.int32).T
    shape = (len(length_B), len(later))
    before_BS, target_BS = (
        jnp.broadcast_to(jnp.asarray([prefixes[p][i - back] for p, i in later], jnp.int32), shape)
        for back in (1, 0)
    )
    # Each prefix is a branch of its own after the prompt.
    layout = TokenLayout(
        jnp.ones(shape, jnp.int32),
        length_B[:, None] + offset_S - 1,
        jnp.broadcast_to(prefix_S + 1, shape),
    )
    hidden_BSD, _ = decoder(before_BS, layout, cache)
    logprob_BS = lm_head.target_logprobs(decoder, hidden_BSD, target_BS)
    return first_Bn.at[:, prefix_S].add(logprob_BS)


@functools.partial(jax.jit, static_argnames=('network', 'spec'))
def _decode(
    network: Network,
    params: Params,
    prompts: PromptBatch,
    temperature: jax.Array,
    top_p: jax.Array,
    spec: DecodeSpec,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Answers a batch of prompts.

    Returns ids [B, max_new_tokens], filled with the first of `stop_ids` after the end, the branch
    [B], and the log-probabilities of the answer prefixes [B, n].
    """
    tokens_BP, length_B, label_B, keys_B = prompts
    params = network.unstacked(params)
    decoder = network.bind(params)
    B, P = tokens_BP.shape
    columns = jnp.arange(P)

    # The prompts run once and fill the cache.
    layout = TokenLayout(
        (columns < length_B[:, None]).astype(jnp.int32),
        jnp.broadcast_to(columns, tokens_BP.shape),
        max_segments=1,
    )
    hidden_BPD, cache = decoder(tokens_BP, layout)
    last_B1D = jnp.take_along_axis(hidden_BPD, (length_B - 1)[:, None, None], axis=1)
    logits_BV = lm_head.logits(decoder, last_B1D)[:, 0]

    # The policy chooses a branch, whose prefix is forced; -1 forces nothing.
    behavior_Bn = _prefix_logprobs(decoder, spec.prefixes, logits_BV, cache, length_B)
    branch_B = policies.choose_branch(spec.policy, behavior_Bn, label_B, jnp)
    max_prefix = max(map(len, spec.prefixes), default=1)
    padded = [tokens + (-1,) * (max_prefix - len(tokens)) for tokens in ((), *spec.prefixes)]
    forced_BS = jnp.asarray(padded)[branch_B]

    stop_ids_N = jnp.asarray(spec.stop_ids)

    def is_unfinished(carry):
        step, _, _, _, done_B = carry
        return (step < spec.max_new_tokens) & ~done_B.all()

    def advance(carry):
        step, out_BT, logits_BV, cache, done_B = carry
        # NNX modules do not cross into the loop's trace.
        decoder = network.bind(params)
        keys = jax.vmap(jax.random.fold_in, (0, None))(jax.random.wrap_key_data(keys_B), step)
        token_B = sample(logits_BV, keys, temperature, top_p)
        forced_B = jnp.where(step < max_prefix, forced_BS[:, jnp.minimum(step, max_prefix - 1)], -1)
        token_B = jnp.where(forced_B >= 0, forced_B, token_B)
        token_B = jnp.where(done_B, spec.stop_ids[0], token_B)
        out_BT = jax.lax.dynamic_update_slice(out_BT, token_B[:, None], (0, step))
        layout = TokenLayout(jnp.ones((B, 1), jnp.int32), (length_B + step)[:, None])
        hidden_B1D, cache = decoder(token_B[:, None], layout, cache, cache_index=P + step)
        logits_BV = lm_head.logits(decoder, hidden_B1D)[:, 0]
        return step + 1, out_BT, logits_BV, cache, done_B | jnp.isin(token_B, stop_ids_N)

    out_BT = jnp.full((B, spec.max_new_tokens), spec.stop_ids[0], jnp.int32)
    done_B = length_B == 0
    carry = (jnp.int32(0), out_BT, logits_BV, cache.padded(spec.max_new_tokens), done_B)
    return jax.lax.while_loop(is_unfinished, advance, carry)[1], branch_B, behavior_Bn


def _prompt_bucket(length: int, longest: int) -> int:
    """Returns the padded length of a prompt: the longest, or 1/4, 1/16, … of it.

    Few lengths mean few compiled programs.
    """
    bucket = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    while length <= (smaller := -(-bucket // (4 * _LENGTH_MULTIPLE)) * _LENGTH_MULTIPLE) < bucket:
        bucket = smaller
    return bucket


def generate(
    model: Model,
    prompts: Sequence[list[int]],
    *,
    policy: str,
    stop_id: int,
    sampling: Sampling,
    of_prompts: PerPrompt = _ALIKE,
    tokens_per_batch: int = 8192,
    on_batch: Callable[[int], object] = lambda _: None,
) -> list[Generation]:
    """Continues each prompt to its end or `sampling.max_new_tokens`, longest prompts first.

    `stop_id` ends an answer, and so does each id that `ends.end_ids` finds in the model's files.

    The result of a prompt does not depend on the others: its sampling key is derived from the seed
    of the sampling and its own one.

    Args:
      model: the model.
      prompts: token ids.
      policy: how the behavior is chosen.
      stop_id: id that ends an answer.
      sampling: length, temperature, nucleus and seed.
      of_prompts: what belongs to each prompt.
      tokens_per_batch: approximate tokens that a device holds at a time.
      on_batch: called after each batch with the number of its prompts.

    Raises UserError when prompt and answer do not fit the model's positions.
    """
    sampling.validate()
    spec = DecodeSpec(
        model.behaviors.prefixes,
        policies.parse_policy(policy, model.behaviors),
        sampling.max_new_tokens,
        tuple(dict.fromkeys([stop_id, *ends.end_ids(model.spec.directory, model.spec.hf_config)])),
    )
    longest = max(len(prompt) for prompt in prompts)
    max_positions = model.network.arch.max_positions
    if longest + sampling.max_new_tokens > max_positions:
        raise UserError(
            f'a prompt of {longest} tokens and {sampling.max_new_tokens} new ones exceed the '
            f'{max_positions} positions of the model',
            where='--max_new_tokens',
        )
    num_prompts, shards = len(prompts), mesh_lib.batch_shards(model.mesh)
    row_sharding = sharding.row_sharding(model.mesh)
    keys_R = _sampling_keys(sampling.seed, of_prompts.seeds, num_prompts)
    labels = of_prompts.labels
    labels_R = np.zeros(num_prompts, np.int32) if labels is None else np.asarray(labels)
    order = sorted(range(num_prompts), key=lambda i: -len(prompts[i]))
    results: dict[int, Generation] = {}
    P = B = 0
    while len(results) < num_prompts:
        # The remaining prompts reuse the compiled shape if they fit it.
        if num_prompts - len(results) > B:
            P = _prompt_bucket(len(prompts[order[len(results)]]), longest)
            rows = max(1, tokens_per_batch // (P + sampling.max_new_tokens))
            B = min(rows, -(-num_prompts // shards)) * shards
        chunk = order[len(results) : len(results) + B]
        batch = _pad_prompts([prompts[i] for i in chunk], labels_R[chunk], keys_R, chunk, (B, P))
        with jax.set_mesh(model.mesh):
            out_BT, branch_B, behavior_Bn = map(
                to_host,
                _decode(
                    model.network,
                    model.params,
                    sharding.to_global(batch, row_sharding),
                    jnp.float32(sampling.temperature),
                    jnp.float32(sampling.top_p),
                    spec=spec,
                ),
            )
        for row, i in enumerate(chunk):
            results[i] = _to_generation(
                model, out_BT[row].tolist(), int(branch_B[row]), behavior_Bn[row], spec.stop_ids
            )
        on_batch(len(chunk))
    return [results[i] for i in range(num_prompts)]


def _sampling_keys(seed: int, seeds: Sequence[int] | None, num_prompts: int) -> np.ndarray:
    """Returns the data of the sampling key of each prompt."""
    seeds_R = np.asarray(range(num_prompts) if seeds is None else seeds, np.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), seeds_R)
    return np.asarray(jax.random.key_data(keys))


def _pad_prompts(
    prompts: Sequence[list[int]],
    labels_R: np.ndarray,
    keys_R: np.ndarray,
    indices: Sequence[int],
    shape: tuple[int, int],
) -> PromptBatch:
    """Returns a batch of `shape` [B, P] with the prompts in its first rows."""
    B = shape[0]
    tokens_BP, (length_B, label_B) = np.zeros(shape, np.int32), np.zeros((2, B), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BP[row, : len(prompt)], length_B[row] = prompt, len(prompt)
    label_B[: len(prompts)] = labels_R
    return PromptBatch(tokens_BP, length_B, label_B, keys_R[np.resize(indices, B)])


def _to_generation(
    model: Model,
    ids: list[int],
    branch: int,
    behavior_logprobs_n: np.ndarray,
    stop_ids: Sequence[int],
) -> Generation:
    ids = list(itertools.takewhile(lambda i: i not in stop_ids, ids))
    if not model.behaviors.is_selectable:
        return Generation(ids, None, None)
    names = model.behaviors.names
    logprobs = dict(zip(names, behavior_logprobs_n.tolist(), strict=True))
    return Generation(ids, names[branch - 1] if branch else None, logprobs)


def seed_of_record(id: str) -> int:
    """Returns the seed of a record's answer, 32 bits that follow from its id alone.

    So an answer that is drawn does not change with the records beside it.
    """
    return zlib.crc32(id.encode(errors='surrogatepass'))


def answer_to_dict(model: Model, generation: Generation) -> dict[str, Any]:
    """Returns an answer as JSON: its text without the prefix, ids, behavior and probabilities."""
    return {
        'text': model.tokenizer.decode(model.behaviors.strip_prefix(generation.ids)),
        'ids': generation.ids,
        'behavior': generation.behavior,
        'behavior_logprobs': generation.behavior_logprobs,
    }
