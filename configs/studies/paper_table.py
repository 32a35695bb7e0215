"""The paper's question on synthetic tasks: do behavior tokens beat plain fine-tuning, above all on initiative?

    python -m bsft_jax.study --config=configs/studies/paper_table.py --workdir=runs/paper_table

Five arms, three learning rates each (chosen on the validation split), five seeds, and the untouched base
under three prompt styles. Named beforehand: proactive macro-F1 of behavior_sft against general_sft, both
choosing for themselves.
"""

from bsft_jax.studies.study import Arm, Study

PAPER = 'Kim et al., arXiv 2505.21757, Qwen2.5-7B-Instruct on BehaviorBench'
BEST = 'Kim et al., arXiv 2505.21757, "up to", on BehaviorBench'


def get_config() -> Study:
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
            {'method': 'BehaviorSFT, best overall', 'proactive': None, 'overall': 0.973, 'source': BEST},
        ),
    )
