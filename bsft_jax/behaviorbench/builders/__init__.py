"""One builder per category: a case in, its records out."""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import omission_detection, temporal_ordering

BUILDERS = {
    'temporal_ordering': temporal_ordering.build,
    'omission_detection': omission_detection.build,
}
