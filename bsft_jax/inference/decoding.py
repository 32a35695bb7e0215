"""Decoding with a cache: the prompt runs once, then one token at a time behind it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.hub.model import Model
from bsft_jax.inference import policies
from bsft_jax.inference.policies import Policy
from bsft_jax.models import head
from bsft_jax.models.attention import KVView, Layout
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.trees import fetch

Heads = tuple[tuple[int, ...], ...]

_ROUND = 64


@dataclasses.dataclass(frozen=True)
class Sampling:
    """`temperature` 0 takes the most probable token; `top_p` keeps the smallest set of that mass."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def validate(self) -> Sampling:
        """Raises UserError for values outside their range."""
        if self.max_new_tokens < 1:
            raise UserError(f'{self.max_new_tokens} is below 1', where='--max_new_tokens')
        if not 0 <= self.temperature < math.inf:
            raise UserError(f'{self.temperature} is not a number from 0 on', where='--temperature')
        if not 0 < self.top_p <= 1:
            raise UserError(f'{self.top_p} is not in (0, 1]', where='--top_p')
        return self


@dataclasses.dataclass
class Generation:
    """One answer: its ids (head included, stop token not), and how its behavior was chosen."""

    ids: list[int]
    behavior: str | None
    behavior_logprobs: dict[str, float] | None


def sample(logits_BV: jax.Array, keys_B: jax.Array, temperature: jax.Array, top_p: jax.Array) -> jax.Array:
    """Token of each row: arg max at temperature 0, else nucleus sampling (Holtzman et al., arXiv 1904.09751)."""

    def nucleus():
        scaled_BV = logits_BV / jnp.maximum(temperature, 1e-6)
        order_BV = jnp.argsort(-scaled_BV, axis=-1)
        probs_BV = jax.nn.softmax(jnp.take_along_axis(scaled_BV, order_BV, axis=-1), axis=-1)
        before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
        kept_BV = jnp.where(before_BV < top_p, jnp.log(probs_BV), -jnp.inf)
        drawn_B = jax.vmap(jax.random.categorical)(keys_B, kept_BV)
        return jnp.take_along_axis(order_BV, drawn_B[:, None], axis=-1)[:, 0]

    # Only what is asked for: a sort of the vocabulary takes longer than the step of a small model.
    return jax.lax.cond(temperature == 0, lambda: jnp.argmax(logits_BV, axis=-1), nucleus)


def _head_logprobs(decoder, heads: Heads, logits_BV, prompt: KVView, length_B) -> jax.Array:
    """Log-probability of each head behind its prompt [B, n]: the sum over the head's tokens."""
    first_n = jnp.asarray([head[0] for head in heads], jnp.int32)
    first_Bn = jax.nn.log_softmax(logits_BV)[:, first_n]
    steps = [(h, i) for h, tokens in enumerate(heads) for i in range(1, len(tokens))]
    if not steps:
        return first_Bn
    head_S, offset_S = np.asarray(steps, np.int32).T
    shape = (len(length_B), len(steps))
    before_BS, target_BS = (
        jnp.broadcast_to(jnp.asarray([heads[h][i - back] for h, i in steps], jnp.int32), shape)
        for back in (1, 0)
    )
    layout = Layout(
        jnp.ones(shape, jnp.int32), length_B[:, None] + offset_S - 1, jnp.broadcast_to(head_S + 1, shape)
    )
    hidden_BSD, _ = decoder(before_BS, layout, prompt)
    return first_Bn.at[:, head_S].add(head.target_logprobs(decoder, hidden_BSD, target_BS))


@functools.partial(jax.jit, static_argnames=('network', 'heads', 'policy', 'max_new', 'stop_id'))
def _decode(
    network: Network,
    params: Params,
    tokens_BP,
    length_B,
    label_B,
    keys_B,
    temperature,
    top_p,
    *,
    heads: Heads,
    policy: Policy,
    max_new: int,
    stop_id: int,
):
    """Ids [B, max_new] (stop_id from the end on), the branch [B] and log-probabilities of the heads [B, n]."""
    params = network.unstacked(params)
    decoder = network.bind(params)
    B, P = tokens_BP.shape
    columns = jnp.arange(P)
    layout = Layout(
        (columns < length_B[:, None]).astype(jnp.int32),
        jnp.broadcast_to(columns, tokens_BP.shape),
        documents=1,
    )
    hidden_BPD, prompt = decoder(tokens_BP, layout)
    last_B1D = jnp.take_along_axis(hidden_BPD, (length_B - 1)[:, None, None], axis=1)
    logits_BV = head.logits(decoder, last_B1D)[:, 0]
    behavior_Bn = _head_logprobs(decoder, heads, logits_BV, prompt, length_B)
    branch_B = policies.choose_branch(policy, behavior_Bn, label_B, jnp)
    H = max(map(len, heads), default=1)
    forced_BH = jnp.asarray([tokens + (-1,) * (H - len(tokens)) for tokens in ((), *heads)])[branch_B]

    def unfinished(carry):
        step, _, _, _, done_B = carry
        return (step < max_new) & ~done_B.all()

    def advance(carry):
        step, out_BM, logits_BV, cache, done_B = carry
        decoder = network.bind(params)  # NNX modules do not cross into the loop's trace
        step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(jax.random.wrap_key_data(keys_B), step)
        token_B = sample(logits_BV, step_keys_B, temperature, top_p)
        forced_B = jnp.where(step < H, forced_BH[:, jnp.minimum(step, H - 1)], -1)
        token_B = jnp.where(forced_B >= 0, forced_B, token_B)
        token_B = jnp.where(done_B, stop_id, token_B)
        out_BM = jax.lax.dynamic_update_slice(out_BM, token_B[:, None], (0, step))
        here = Layout(jnp.ones((B, 1), jnp.int32), (length_B + step)[:, None])
        hidden_B1D, cache = decoder(token_B[:, None], here, cache, slot=P + step)
        logits_BV = head.logits(decoder, hidden_B1D)[:, 0]
        return step + 1, out_BM, logits_BV, cache, done_B | (token_B == stop_id)

    out_BM = jnp.full((B, max_new), stop_id, jnp.int32)
    done_B = length_B == 0
    carry = (jnp.int32(0), out_BM, logits_BV, prompt.with_room(max_new), done_B)
    return jax.lax.while_loop(unfinished, advance, carry)[1], branch_B, behavior_Bn


def _padded(length: int, longest: int) -> int:
    """Columns for prompts of this length: a quarter of the longest's, a 16th, … where they fit: programs are few."""
    columns = -(-longest // _ROUND) * _ROUND
    while length <= (fewer := -(-columns // (4 * _ROUND)) * _ROUND) < columns:
        columns = fewer
    return columns


def generate(
    model: Model,
    prompts: Sequence[list[int]],
    *,
    policy: str,
    stop_id: int,
    sampling: Sampling,
    labels=None,
    tokens_per_batch: int = 8192,
    on_batch=lambda n: None,
) -> list[Generation]:
    """Continues each prompt (ids) until `stop_id` or `sampling.max_new_tokens`.

    The result of a prompt does not depend on the others: sampling keys follow (seed, its index). The longest go first.
    `labels` are the rows that policy `oracle` needs, `tokens_per_batch` is about how many a device holds at a time.

    Raises UserError when prompt and answer do not fit the model's positions.
    """
    sampling.validate()
    parsed = policies.parse(policy, model.behaviors)
    longest = max(len(prompt) for prompt in prompts)
    limit = model.network.arch.max_positions
    if longest + sampling.max_new_tokens > limit:
        raise UserError(
            f'a prompt of {longest} tokens and {sampling.max_new_tokens} new ones exceed the {limit} positions of the model',
            where='--max_new_tokens',
        )
    N, shards, rows = len(prompts), mesh_lib.batch_shards(model.mesh), sharding.row_sharding(model.mesh)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(sampling.seed), jnp.arange(N))
    keys_N = np.asarray(jax.random.key_data(keys))
    order = sorted(range(N), key=lambda i: -len(prompts[i]))
    results: dict[int, Generation] = {}
    P = B = 0
    while len(results) < N:
        if N - len(results) > B:  # else the rest fit the program that there is
            P = _padded(len(prompts[order[len(results)]]), longest)
            fit = max(1, tokens_per_batch // (P + sampling.max_new_tokens))
            B = min(fit, -(-N // shards)) * shards
        chunk = order[len(results) : len(results) + B]
        tokens_BP, length_B, label_B = np.zeros((B, P), np.int32), *np.zeros((2, B), np.int32)
        for row, i in enumerate(chunk):
            tokens_BP[row, : len(prompts[i])], length_B[row] = prompts[i], len(prompts[i])
        if labels is not None:
            label_B[: len(chunk)] = np.asarray(labels)[chunk]
        keys_B = keys_N[np.resize(chunk, B)]
        with jax.set_mesh(model.mesh):
            out_BM, branch_B, behavior_Bn = map(
                fetch,
                _decode(
                    model.network,
                    model.params,
                    *sharding.spread((tokens_BP, length_B, label_B, keys_B), rows),
                    jnp.float32(sampling.temperature),
                    jnp.float32(sampling.top_p),
                    heads=model.behaviors.heads,
                    policy=parsed,
                    max_new=sampling.max_new_tokens,
                    stop_id=stop_id,
                ),
            )
        for row, i in enumerate(chunk):
            ids = out_BM[row].tolist()
            ids = ids[: ids.index(stop_id)] if stop_id in ids else ids
            behavior = logprobs = None
            if model.behaviors.chooses:
                names, branch = model.behaviors.names, int(branch_B[row])
                behavior = names[branch - 1] if branch else None
                logprobs = dict(zip(names, behavior_Bn[row].tolist(), strict=True))
            results[i] = Generation(ids, behavior, logprobs)
        on_batch(len(chunk))
    return [results[i] for i in range(N)]


def describe(model: Model, generation: Generation) -> dict:
    """An answer as JSON: its text without the head, ids, behavior and probabilities."""
    return {
        'text': model.tokenizer.decode(model.behaviors.without_head(generation.ids)),
        'ids': generation.ids,
        'behavior': generation.behavior,
        'behavior_logprobs': generation.behavior_logprobs,
    }
