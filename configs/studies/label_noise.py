"""Measures the effect of wrong behavior labels: 0, 5, 10 and 20 % of the training labels flipped.

    python -m bsft_jax.study --config=configs/studies/label_noise.py --workdir=runs/label_noise

Three seeds. The endpoint, chosen beforehand, is proactive macro-F1 with 20 % of the labels flipped
against none, both with the model's own choice of behavior.

Expected result: -0.7 points (95 % interval -1.7 to 0.0, p = 0.071), no proven effect
(docs/results.md).
"""

from bsft_jax.studies.study import Arm, Study


def get_config() -> Study:
    """Returns the study."""
    return Study(
        name='label_noise',
        config='configs/quickstart.py',
        arms=(
            Arm('general_sft', {'arm': 'general_sft'}),
            *(
                Arm(f'noise_{share:.0%}', {'data.label_noise': share})
                for share in (0.0, 0.05, 0.1, 0.2)
            ),
        ),
        seeds=(0, 1, 2),
        overrides={'data.source': 'synthetic:2000'},
        base_prompts=(),
        endpoint=('proactive', ('noise_20%', 'auto'), ('noise_0%', 'auto')),
    )
