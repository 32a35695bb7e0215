"""Scores: log-probabilities of every branch and option, from one pass over records."""

from __future__ import annotations

import dataclasses

import numpy as np

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.inference.branches import NONE


@dataclasses.dataclass(frozen=True)
class Scores:
    """Holds the scores of R records with n answer prefixes, W = n + 1 branches and K options.

    Attributes:
      behaviors: the behaviors with the prefixes of the model's answers.
      behavior_logprob_Rn: log-probability of each answer prefix after the prompt, over the full
        vocabulary, summed over its tokens.
      option_logprob_RWK: log-probability of each option given the branch, summed over its tokens.
        Branch 0 is `none`, then the prefixes; -inf where a record has fewer options.
      confusion_CKK: counts by category, answer and prediction under the scorer's policy,
        accumulated on the devices; None without a policy, under `mixture` and a dial by category.
      categories: names along the first axis of `confusion_CKK`.
      prompt: prompt style that the records were shown in.
    """

    behaviors: BehaviorSet
    behavior_logprob_Rn: np.ndarray
    option_logprob_RWK: np.ndarray
    confusion_CKK: np.ndarray | None = None
    categories: tuple[str, ...] = ()
    prompt: str = 'plain'

    @property
    def branches(self) -> tuple[str, ...]:
        """Returns the names of the branches, in the order of axis W."""
        return (NONE, *self.behaviors.prefix_names)
