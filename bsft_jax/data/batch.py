"""Batch: what one step sees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Rows of packed documents.

    Attributes:
      tokens_BT: token ids, int32.
      targets_BT: the next token of the same document; 0 with weight 0 at a document's last token.
      weights_BT: loss weight of the target, float32.
      segment_ids_BT: 1, 2, … for the documents of a row; 0 is padding.
      positions_BT: position within the document, from 0.
    """

    tokens_BT: np.ndarray
    targets_BT: np.ndarray
    weights_BT: np.ndarray
    segment_ids_BT: np.ndarray
    positions_BT: np.ndarray
