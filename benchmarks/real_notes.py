"""Takes real clinical notes through the commands: prepare, train, evaluate and export.

    python -m benchmarks.real_notes --medec=MEDEC_DIR [--stories260k=HF_DIR]

Trains both arms on MEDEC from the bundled base and, if given, from stories260k; evaluates them and
the bundled base on MEDEC's test split; and exports. The script prints the table and writes
`benchmarks/results/real_notes.json` with commands, versions, tokens and times. The four trainings
took 17 minutes on two cores that had other work for part of the time.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import shlex
import subprocess
import sys

from absl import flags

from bsft_jax import cli
from bsft_jax.report import table

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARMS = ('general_sft', 'behavior_sft')
MEANING = (
    'Bases of a million parameters or fewer cannot read these notes: the values show that real '
    'notes pass through every command, not that either arm helps. The test split has 64 records, '
    'of which 4 fit stories260k.'
)

_MEDEC = flags.DEFINE_string('medec', None, "Folder of MEDEC's CSV files.", required=True)
_STORIES = flags.DEFINE_string(
    'stories260k', '', 'Hugging Face directory of stories260k; default: left out.'
)
_RUNS = flags.DEFINE_string('runs', 'runs/real_notes', 'New folder for the runs.')


def last_metrics(run: pathlib.Path) -> dict[str, float]:
    """Returns loss, tokens and training seconds of a run's last logged step."""
    line = json.loads((run / 'metrics.jsonl').read_text().splitlines()[-1])
    return {name: line[name] for name in ('step', 'loss', 'tokens', 'seconds', 'tokens_per_second')}


def main(argv) -> None:
    """Runs all commands, prints the table and writes the result."""
    del argv
    commands = []

    def run_command(name: str, *arguments: str) -> None:
        command = ['python', '-m', f'bsft_jax.{name}', *arguments]
        print('+', shlex.join(command), file=sys.stderr)
        subprocess.run(
            [sys.executable, *command[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        commands.append(shlex.join(command))

    runs, data = _RUNS.value, f'{_RUNS.value}/data'
    run_command('prepare', f'--source=medec:{_MEDEC.value}', f'--output={data}')
    bases, trained = {'open': ()}, []
    if _STORIES.value:
        bases['stories260k'] = (f'--config.model.base={_STORIES.value}',)
    for base, extra in bases.items():
        for arm in ARMS:
            workdir = f'--workdir={runs}/{base}/{arm}'
            config = f'--config=configs/{base}.py:{arm}'
            run_command('train', config, workdir, f'--config.data.source=jsonl:{data}', *extra)
            run_command('evaluate', workdir, '--name=test')
            trained.append(f'{base}/{arm}')
            run_command(
                'export', workdir, f'--output={runs}/{base}/{arm}/exported', '--format=merged'
            )
    run_command(
        'evaluate',
        '--model=tiny-clinical',
        f'--data=jsonl:{data}',
        f'--workdir={runs}/open/base',
        '--answer_format=letter',
        '--max_dropped_fraction=0.5',
        '--name=test',
    )

    evaluations = table.read_evaluations(ROOT / runs)
    environment = json.loads((ROOT / runs / 'open' / ARMS[0] / 'environment.json').read_text())
    result = {
        'date': datetime.date.today().isoformat(),
        'meaning': MEANING,
        'environment': environment,
        'commands': commands,
        'training': {run: last_metrics(ROOT / runs / run) for run in trained},
        'data': json.loads((ROOT / data / 'card.json').read_text()),
        'metrics': dict(evaluations),
    }
    target = ROOT / 'benchmarks' / 'results' / 'real_notes.json'
    target.parent.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2).replace(_MEDEC.value, 'MEDEC_DIR')
    target.write_text(text.replace(_STORIES.value or '\0', 'STORIES260K_DIR') + '\n')
    print(table.format_table(evaluations))
    print(f'\n{MEANING}\nwritten: {target.relative_to(ROOT)}')


if __name__ == '__main__':
    cli.run(main)
