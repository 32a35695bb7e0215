"""Tests launch/gke_jobset.sh: its manifests, and what they lead to after a failure."""

import os
import re
import subprocess

import pytest
import yaml

from tests.conftest import ROOT

GOLDEN = ROOT / 'tests' / 'golden' / 'launch'
NEEDED = ('--name=bsft', '--image=us-docker.pkg.dev/clinic/bsft/bsft:1', '--claim=bsft')
TPU = (*NEEDED, '--accelerator=tpu-v6e-slice', '--topology=4x4', '--hosts=4', '--cards=4')
GPU = (*NEEDED, '--accelerator=nvidia-h100-80gb', '--hosts=2', '--cards=8', '--spot')
TRAIN = (
    '-m',
    'bsft_jax.train',
    '--config=configs/qwen2_5_7b.py',
    '--config.mesh.devices=16',
    '--workdir=/data/one',
)
ODD = ('--note=it\'s "2" \\ words & ${NAME}', '$(HOSTNAME)')


def launch(*arguments, **env):
    return subprocess.run(
        ['bash', 'launch/gke_jobset.sh', *arguments],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )


def manifest_of(*options):
    done = launch(*options, '--dry_run', '--', *TRAIN, *ODD)
    assert done.returncode == 0 and done.stderr == ''
    return done.stdout


@pytest.mark.parametrize('options, golden', [(TPU, 'jobset_tpu.yaml'), (GPU, 'jobset_gpu.yaml')])
def test_a_dry_run_prints_the_manifest(options, golden):
    text = manifest_of(*options)
    assert text == (GOLDEN / golden).read_text()
    container = only(pod(yaml.safe_load(text))['containers'])
    assert container['args'] == [*TRAIN, ODD[0], '$$(HOSTNAME)']


def only(items):
    (item,) = items
    return item


def job(manifest):
    return only(manifest['spec']['replicatedJobs'])['template']['spec']


def pod(manifest):
    return job(manifest)['template']['spec']


@pytest.mark.parametrize('options', [TPU, GPU])
def test_a_manifest_follows_the_published_schema(options):
    """Uses models made from the OpenAPI of JobSet and Kubernetes, which drop unknown fields."""
    models = pytest.importorskip(
        'kubeflow_trainer_api.models', reason='the schema is in kubeflow-trainer-api'
    )
    schema, manifest = models.JobsetV1alpha2JobSet, yaml.safe_load(manifest_of(*options))
    assert schema.from_dict(manifest).to_dict() == manifest
    manifest['spec']['network']['subDomain'] = 'unknown'
    assert schema.from_dict(manifest).to_dict() != manifest
    manifest['spec']['failurePolicy']['maxRestarts'] = '3'
    with pytest.raises(ValueError, match='maxRestarts'):
        schema.from_dict(manifest)


@pytest.mark.parametrize('options', [TPU, GPU])
def test_enumerations_and_names_are_valid(options):
    """Checks what the models leave open, by the validation rules of JobSet's types and webhook."""
    manifest = yaml.safe_load(manifest_of(*options))
    policy = manifest['spec']['failurePolicy']
    assert policy['restartStrategy'] in ('Recreate', 'BlockingRecreate', 'InPlaceRestart')
    for rule in policy['rules']:
        assert re.fullmatch('[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
        assert rule['action'] in (
            'FailJobSet',
            'RestartJobSet',
            'RestartJobSetAndIgnoreMaxRestarts',
        )
        assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
    mounts = {mount['name'] for mount in only(pod(manifest)['containers'])['volumeMounts']}
    assert mounts == {volume['name'] for volume in pod(manifest)['volumes']}
    longest = f'{"a" * 40}-{only(manifest["spec"]["replicatedJobs"])["name"]}-0-999-abcde'
    assert len(longest) <= 63


def action(manifest, code=None, condition=None):
    """Returns what JobSet does when a pod ends: the job's rules apply in order, then the set's."""
    rule = next(
        (
            number
            for number, rule in enumerate(job(manifest)['podFailurePolicy']['rules'])
            if code in rule.get('onExitCodes', {}).get('values', ())
            or condition in [pattern['type'] for pattern in rule.get('onPodConditions', ())]
        ),
        None,
    )
    cause = f'failed with exit code {code}' if code is not None else f'has condition {condition}'
    reason = 'BackoffLimitExceeded' if rule is None else 'PodFailurePolicy'
    message = f'Container app for pod a/b {cause} matching FailJob rule at index {rule}'
    for policy in manifest['spec']['failurePolicy']['rules']:
        patterns = policy.get('onJobFailureMessagePatterns', [''])
        if reason in policy['onJobFailureReasons'] and any(re.search(p, message) for p in patterns):
            return policy['action']
    return 'RestartJobSet'


def test_the_consequences_of_exit_codes_and_lost_nodes():
    manifest = yaml.safe_load(manifest_of(*TPU))
    assert action(manifest, code=75) == 'RestartJobSetAndIgnoreMaxRestarts'
    assert action(manifest, condition='DisruptionTarget') == 'RestartJobSetAndIgnoreMaxRestarts'
    assert action(manifest, code=2) == 'FailJobSet'
    # It counts towards maxRestarts.
    assert action(manifest, code=134) == 'RestartJobSet'
    assert manifest['spec']['failurePolicy']['maxRestarts'] > 0
    assert job(manifest)['backoffLimit'] == 0 and pod(manifest)['restartPolicy'] == 'Never'
    for rule in job(manifest)['podFailurePolicy']['rules'][:2]:
        assert rule['onExitCodes']['containerName'] == only(pod(manifest)['containers'])['name']


def test_processes_on_gpus_find_the_coordinator():
    from bsft_jax.parallel.processes import ProcessGroup, process_group

    manifest = yaml.safe_load(manifest_of(*GPU))
    env = {
        entry['name']: entry.get('value', '1') for entry in only(pod(manifest)['containers'])['env']
    }
    host = f'bsft-{only(manifest["spec"]["replicatedJobs"])["name"]}-0-0'
    assert process_group(env) == ProcessGroup(
        f'{host}.{manifest["spec"]["network"]["subdomain"]}:61440', 2, 1
    )


def test_the_manifest_goes_to_kubectl(tmp_path):
    kubectl = tmp_path / 'kubectl'
    kubectl.write_text(
        f'#!/bin/sh\necho "$@" >"{tmp_path}/called"; cat >"{tmp_path}/manifest"; exit $CODE\n'
    )
    kubectl.chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    done = launch(*TPU, '--', *TRAIN, *ODD, PATH=path, CODE='0')
    assert done.returncode == 0 and 'kubectl logs --follow' in done.stderr
    assert (tmp_path / 'called').read_text() == 'apply --filename=-\n'
    assert (tmp_path / 'manifest').read_text() == manifest_of(*TPU)
    assert launch(*TPU, '--', *TRAIN, PATH=path, CODE='1').returncode == 1


@pytest.mark.parametrize(
    'arguments, message',
    [
        (TPU[1:], '--name=… is missing'),
        (TPU, 'nothing to run'),
        ((*TPU, '--topology=4by4', '--', 'a'), '--topology=4by4 must be like'),
        (
            (*NEEDED, '--accelerator=tpu-v6e-slice', '--hosts=4', '--cards=4', '--', 'a'),
            'needs the --topology=AxB',
        ),
        ((*TPU, '--hosts=2', '--', 'a'), '--topology=4x4 does not have 2 × 4 chips'),
        ((*TPU, '--topology=2x2x2', '--', 'a'), '--topology=2x2x2 does not have 4 × 4 chips'),
        ((*GPU, '--topology=4x4', '--', 'a'), '--topology=4x4 is for TPUs'),
        ((*TPU, '--name=Bsft', '--', 'a'), '--name=Bsft must be'),
        ((*TPU, '--hosts=two', '--', 'a'), '--hosts=two is not a number'),
        ((*TPU, '--', 'a\nb'), 'control character'),
        ((*TPU, '--tpu', '--', 'a'), 'unknown option --tpu'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    done = launch(*arguments, '--dry_run') if '--' not in arguments else launch(*arguments)
    assert done.returncode == 2 and message in done.stderr and done.stdout == ''
