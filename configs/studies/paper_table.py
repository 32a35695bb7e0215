"""Asks the paper's question on synthetic tasks: do behavior tokens beat plain fine-tuning?

    python -m bsft_jax.study --config=configs/studies/paper_table.py --workdir=runs/paper_table

Five arms, three learning rates each (chosen on the validation split), five seeds, and the untouched
base with three prompt styles; 95 minutes on two CPU cores with --jobs=2. The endpoint, chosen
beforehand, is proactive macro-F1 of behavior_sft against general_sft, both with the model's own
choice of behavior.

Expected result: -3.0 points (95 % interval -4.8 to -1.2), 0.560 against 0.590 (docs/results.md).
"""

from bsft_jax.studies.study import Arm, Study

# Sources of the published values that the report shows beside ours.
PAPER = 'Kim et al., arXiv 2505.21757, Qwen2.5-7B-Instruct on BehaviorBench'
BEST = 'Kim et al., arXiv 2505.21757, "up to", on BehaviorBench'


def get_config() -> Study:
    """Returns the study."""
    arms = ('general_sft', 'behavior_sft', 'text_sft', 'neutral_token', 'shuffled_token')
    return Study(
        name='paper_table',
        config='configs/quickstart.py',
        arms=tuple(Arm(name, {'arm': name}) for name in arms),
        seeds=(0, 1, 2, 3, 4),
        overrides={'data.source': 'synthetic:2000'},
        learning_rates=(5e-4, 1e-3, 2e-3),
        base_prompts=('plain', 'instructed', 'few_shot:2'),
        published=(
            {'method': 'general SFT', 'proactive': 0.950, 'overall': None, 'source': PAPER},
            {'method': 'BehaviorSFT', 'proactive': 0.965, 'overall': None, 'source': PAPER},
            {
                'method': 'BehaviorSFT, best overall',
                'proactive': None,
                'overall': 0.973,
                'source': BEST,
            },
        ),
    )
