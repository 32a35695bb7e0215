"""Calibrates a run by its validation split: the log-odds of stepping in, and the dial."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import config as config_lib
from bsft_jax import files, places
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.commands import eval_folder
from bsft_jax.errors import UserError, printable
from bsft_jax.evaluation import calibration as calibration_lib
from bsft_jax.evaluation import risk_control
from bsft_jax.evaluation.operating import Choices, OperatingCurve, find_choices
from bsft_jax.inference import calibrated
from bsft_jax.records.record import cluster_of

CONFIDENCE = 0.9
_SPLIT = 'validation'
# A category with fewer cases gets no dial by costs.
_FEWEST_CASES = 50
# Settings of an evaluation that its calibration repeats; an export shows no path of the data.
_SETTINGS = ('split', 'subset', 'limit', 'prompt', 'answer_format')


@dataclasses.dataclass(frozen=True)
class CalibrateOptions:
    """Describes a calibration: one of a target, a dial, and two costs chooses the dial.

    Attributes:
      workdir: folder of the run.
      eval_dir: folder of an evaluation of its validation split; empty to evaluate it.
      step: checkpoint to evaluate; None for the newest.
      target: largest rate of over-intervention on fresh cases.
      confidence: confidence that this holds; None for CONFIDENCE.
      dial: what is added to the log-odds of stepping in.
      cost_miss: cost of a missed intervention.
      cost_false_alarm: cost of an over-intervention.
      by_category: chooses a dial also for each category that has enough validation cases.
    """

    workdir: str
    eval_dir: str = ''
    step: int | None = None
    target: float | None = None
    confidence: float | None = None
    dial: float | None = None
    cost_miss: float | None = None
    cost_false_alarm: float | None = None
    by_category: bool = False

    def check(self) -> None:
        """Raises UserError for settings that do not go together or are out of range."""
        costs = (self.cost_miss, self.cost_false_alarm)
        ways = [self.target is not None, self.dial is not None, costs != (None, None)]
        if sum(ways) != 1:
            raise UserError(
                'choose the dial in one way',
                fix='give --target_over_intervention, or --dial, or --cost_miss and '
                '--cost_false_alarm',
            )
        if self.by_category and self.dial is not None:
            raise UserError('belongs to a target or to costs', where='--by_category')
        if self.confidence is not None and self.target is None:
            raise UserError('belongs to --target_over_intervention', where='--confidence')
        for flag, value in (
            ('target_over_intervention', self.target),
            ('confidence', self.confidence),
        ):
            if value is not None and not 0 < value < 1:
                raise UserError(f'{value} is not between 0 and 1', where=f'--{flag}')
        if self.dial is not None and not math.isfinite(self.dial):
            raise UserError(f'{self.dial} is not a finite number', where='--dial')
        for flag, cost in (('cost_miss', costs[0]), ('cost_false_alarm', costs[1])):
            if ways[2] and cost is None:
                raise UserError(f'flag --{flag} is missing', fix='give both costs')
            if cost is not None and not 0 < cost < math.inf:
                raise UserError(f'{cost} is not a positive number', where=f'--{flag}')
        if self.eval_dir and self.step is not None:
            raise UserError(
                'belongs to an evaluation that is made, not to --eval_dir',
                where=f'--step={self.step}',
            )

    @property
    def stated_confidence(self) -> float:
        """Returns the confidence, CONFIDENCE unless another is named."""
        return CONFIDENCE if self.confidence is None else self.confidence

    @property
    def chosen_by(self) -> dict[str, float]:
        """Returns what chooses the dial, as `calibration.json` says it."""
        named = {'dial': self.dial, 'target_over_intervention': self.target}
        named |= {'cost_miss': self.cost_miss, 'cost_false_alarm': self.cost_false_alarm}
        if self.target is not None:
            named['confidence'] = self.stated_confidence
        return {name: value for name, value in named.items() if value is not None}


def calibrate(options: CalibrateOptions) -> dict[str, Any] | None:
    """Writes `calibration.json` of a run.

    Without `eval_dir` it evaluates the validation split first, which writes to `WORKDIR/eval`.

    Returns its content; None in other processes than the first.

    Raises:
      UserError: settings that do not go together, a run without behaviors to choose from, an
        evaluation that is not of its validation split, records that cannot tell, a target that
        cannot be met, or a place that cannot be written.
    """
    options.check()
    workdir, where = pathlib.Path(options.workdir), f'--workdir={options.workdir}'
    config = config_lib.read_workdir(workdir)
    places.check_writable(workdir / calibrated.NAME, where, file=True)
    if config.prefix_kind not in ('tokens', 'words'):
        raise UserError(
            f'a dial needs behaviors to choose from, a model of the arm {config.arm} has none',
            where=where,
        )
    if not BehaviorSet(config.behaviors).positions:
        raise UserError('a dial needs behaviors of different levels', where=where)
    if not options.eval_dir and not _evaluate_validation(options):
        return None
    source = pathlib.Path(options.eval_dir or workdir / 'eval' / _name(options.step))
    rows, metrics = _read_evaluation(source, workdir, f'--eval_dir={source}')
    content = _content(options, rows, metrics, source)
    content['model'] = calibrated.identity(workdir, metrics.get('step'))
    if content['model']['weights'] is None:
        raise UserError(
            f'is of step {metrics.get("step")}, whose checkpoint is gone',
            where=f'--eval_dir={source}',
            fix='leave it out to evaluate a checkpoint that is there',
        )
    files.write_json(workdir / calibrated.NAME, content)
    print(printable(f'written: {workdir / calibrated.NAME}'), file=sys.stderr)
    return content


def _name(step: int | None) -> str:
    """Returns the name that `evaluate` gives its folder by default."""
    return eval_folder.evaluation_name([_SPLIT, 'auto'], {'step': step}, {})


def _evaluate_validation(options: CalibrateOptions) -> bool:
    """Evaluates the validation split and returns whether this process is the first."""
    # Deferred: stored scores need no JAX.
    from bsft_jax.commands.evaluate import EvaluateOptions, evaluate
    from bsft_jax.parallel import processes

    processes.start()
    evaluate(
        EvaluateOptions(options.workdir, step=options.step, split=_SPLIT, name=_name(options.step))
    )
    return processes.is_first()


def _read_evaluation(
    source: pathlib.Path, workdir: pathlib.Path, where: str
) -> tuple[list[dict], dict[str, Any]]:
    """Returns rows and metrics of an evaluation; raises UserError for one of anything else."""
    rows, metrics = eval_folder.read(source, where)
    fix = f'python -m bsft_jax.evaluate --workdir={workdir} --split={_SPLIT} makes one'
    if source.resolve().parent.parent != workdir.resolve() or metrics.get('model'):
        raise UserError(f'is not an evaluation of the run {workdir}', where=where, fix=fix)
    if metrics['split'] != _SPLIT:
        raise UserError(
            f'is of the {metrics["split"]} split, not of {_SPLIT}', where=where, fix=fix
        )
    if seen := (metrics.get('trained_on') or {}).get('records'):
        raise UserError(f'{seen} of its records were trained on', where=where, fix=fix)
    return rows, metrics


def _content(
    options: CalibrateOptions,
    rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    source: pathlib.Path,
) -> dict[str, Any]:
    """Returns the content of `calibration.json`, without the model."""
    choices = find_choices(rows, metrics['behaviors'])
    curve = None if choices is None else OperatingCurve.of(choices)
    if choices is None or curve is None or not _tells(choices):
        raise UserError(
            'has no records both with a label that steps in and with one that does not',
            where=f'--eval_dir={source}',
        )
    names = [cluster_of(row) or f'row {r}' for r, row in enumerate(rows)]
    dial = _choose(options, curve, names)
    if dial is None:
        raise _cannot_be_met(options, curve, names)
    log_odds = calibration_lib.calibrate_log_odds(choices)
    return {
        'schema': calibrated.SCHEMA,
        'dial': dial,
        'chosen_by': options.chosen_by,
        'log_odds': {'slope': log_odds.slope, 'offsets': list(log_odds.offsets)},
        'behaviors': dict(metrics['behaviors']),
        'evaluation': {
            'name': source.resolve().name,
            **{name: metrics.get(name) for name in _SETTINGS},
            'records': len(rows),
            'records_sha256': _digest(rows),
        },
        'validation': {
            **_found(curve, names, dial),
            **{
                name: value
                for name, value in calibration_lib.calibration_metrics(choices, log_odds).items()
                if name != 'n'
            },
        },
        'categories': _by_category(options, rows, metrics['behaviors'], names),
    }


def _tells(choices: Choices) -> bool:
    """Returns whether a labelled record leaves a choice."""
    return bool((choices.open_R & (choices.label_R == choices.label_R)).any())


def _choose(options: CalibrateOptions, curve: OperatingCurve, names: Sequence[str]) -> float | None:
    """Returns the dial; None for a target that cannot be met."""
    if options.dial is not None:
        return options.dial
    if options.target is not None:
        return calibration_lib.dial_for_target(
            curve, names, options.target, options.stated_confidence
        )
    assert options.cost_miss is not None and options.cost_false_alarm is not None
    return calibration_lib.dial_for_costs(curve, options.cost_miss, options.cost_false_alarm)


def _cannot_be_met(
    options: CalibrateOptions, curve: OperatingCurve, names: Sequence[str]
) -> UserError:
    confidence = options.stated_confidence
    best = risk_control.lowest_target(curve, risk_control.case_numbers(names), 1 - confidence)
    return UserError(
        f'cannot be met with confidence {confidence} by {_cases(curve, names)} cases; '
        + ('no target can' if best is None else f'the lowest that can is {best}'),
        where=f'--target_over_intervention={options.target}',
        fix='raise it, lower --confidence, or bring more validation cases',
    )


def _cases(curve: OperatingCurve, names: Sequence[str]) -> int:
    """Returns the number of cases with records that can be over-interventions."""
    return len({name for name, x in zip(names, curve.can_be_over_R, strict=True) if x})


def _found(curve: OperatingCurve, names: Sequence[str], dial: float) -> dict[str, Any]:
    """Returns what a dial does on the validation records that chose it."""
    return {
        **calibration_lib.rates_at(curve, dial),
        'n': int(curve.can_be_over_R.sum()),
        'cases': _cases(curve, names),
    }


def _by_category(
    options: CalibrateOptions,
    rows: Sequence[Mapping[str, Any]],
    levels: Mapping[str, float],
    names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Returns the dial of each category that has enough cases, and what it does there.

    Those are enough that meet the target, or for costs `_FEWEST_CASES`.
    """
    found: dict[str, dict[str, Any]] = {}
    categories = {row.get('category') or '' for row in rows} if options.by_category else set()
    for category in sorted(categories - {''}):
        own = [r for r, row in enumerate(rows) if row.get('category') == category]
        own_names = [names[r] for r in own]
        choices = find_choices([rows[r] for r in own], levels)
        curve = None if choices is None else OperatingCurve.of(choices)
        if curve is None or (options.target is None and _cases(curve, own_names) < _FEWEST_CASES):
            continue
        if (dial := _choose(options, curve, own_names)) is not None:
            found[category] = {'dial': dial, **_found(curve, own_names, dial)}
    return found


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a hash of the ids and words of the records."""
    records = sorted([row['id'], row.get('digest', '')] for row in rows)
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


def describe(content: Mapping[str, Any]) -> str:
    """Returns what a calibration says, in lines for a terminal."""
    found, by, log_odds = content['validation'], content['chosen_by'], content['log_odds']
    offsets = ', '.join(f'{offset:.3f}' for offset in log_odds['offsets'])
    lines = [
        f'dial {content["dial"]:.4f}: over-intervention {found["over_intervention_rate"]:.3f}, '
        f'missed {found["missed_intervention_rate"]:.3f} on validation '
        f'({found["n"]} records of {found["cases"]} cases that can be over-interventions)',
        f'log-odds: slope {log_odds["slope"]:.3f}, offset {offsets}; '
        f'Brier score {found["brier_before"]:.3f} → {found["brier"]:.3f}, '
        f'ECE {found["ece_before"]:.3f} → {found["ece"]:.3f} on the records that were fitted',
    ]
    if 'confidence' in by:
        lines.insert(
            1,
            f'on fresh cases over-intervention is at most {by["target_over_intervention"]} with '
            f'confidence {by["confidence"]}',
        )
    lines += [
        f'{category}: dial {entry["dial"]:.4f}, over-intervention '
        f'{entry["over_intervention_rate"]:.3f}, missed {entry["missed_intervention_rate"]:.3f} '
        f'({entry["cases"]} cases)'
        for category, entry in content['categories'].items()
    ]
    return '\n'.join(lines)
