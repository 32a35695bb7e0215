"""Compares two arms on synthetic tasks with one seed: the smallest study.

    python -m bsft_jax.study --config=configs/studies/quickstart.py --workdir=runs/quickstart

It takes 3 to 6 minutes on two idle CPU cores with --jobs=2.

Expected result: overall macro-F1 0.645 for behavior_sft and 0.651 for general_sft, proactive 0.589
and 0.595 (docs/results.md; other processors round differently).
"""

from bsft_jax.studies.study import Arm, Study


def get_config() -> Study:
    """Returns the study."""
    return Study(
        name='quickstart',
        config='configs/quickstart.py',
        arms=(
            Arm('general_sft', {'arm': 'general_sft'}),
            Arm('behavior_sft', {'arm': 'behavior_sft'}),
        ),
        test_limit=630,
    )
