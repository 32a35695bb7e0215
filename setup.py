import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
README = ROOT / 'README.md'

setuptools.setup(
    name='bsft_jax',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'bsft_jax/__init__.py').read_text())[1],
    description='BehaviorSFT in JAX: clinical behavior tokens, trained on accelerator meshes',
    long_description=README.read_text(encoding='utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=setuptools.find_packages(include=['bsft_jax', 'bsft_jax.*']),
    package_data={'bsft_jax': ['assets/**', 'report/static/*', 'review_kit/assets/*', 'py.typed']},
    python_requires='>=3.11',
    install_requires=[
        'absl-py>=2.5.1,<3',
        'datasets>=5.2.0,<6',
        'flax>=0.12.8,<0.13',
        'gguf>=0.19,<0.20',
        'grain>=0.2.18,<0.3',
        'huggingface_hub>=1.33,<3',
        'importlib_resources>=6',  # tensorflow-datasets needs it and does not say so
        'jax>=0.10.2,<0.12',
        'jinja2>=3.1.6,<4',
        'ml_collections>=1.1.0,<2',
        'numpy>=2.4.6,<3',
        'optax>=0.2.8,<0.3',
        'orbax-checkpoint>=0.12.8,<0.13',
        'packaging>=26.3,<27',
        'safetensors>=0.8.0,<0.9',
        'scikit-learn>=1.9.1,<2',
        'tensorboardX>=2.6.5,<3',
        'tensorflow-datasets>=4.9.10,<5',
        'tokenizers>=0.23.3,<0.24',
        'tqdm>=4.70.1,<5',
        'transformers>=5.17.0,<6',
    ],
    extras_require={
        'browser': [  # tests of the pages in a chromium
            'playwright>=1.65.2,<2',
        ],
        'cuda12': ['jax[cuda12]'],
        'cuda13': ['jax[cuda13]'],
        'plan': [  # compilers for accelerators that are not there; each belongs to one jax
            'jax-cuda13-pjrt==0.10.2; python_version < "3.12"',
            'jax-cuda13-pjrt==0.11.2; python_version >= "3.12"',
            'jax-cuda13-plugin==0.10.2; python_version < "3.12"',
            'jax-cuda13-plugin==0.11.2; python_version >= "3.12"',
            'libtpu~=0.0.42.0; python_version < "3.12"',
            'libtpu~=0.0.48.0; python_version >= "3.12"',
        ],
        'tpu': ['jax[tpu]'],
        'trackio': [
            'trackio>=0.43,<1',
        ],
        'wandb': [
            'wandb>=0.31,<1',
        ],
        'test': [
            'import-linter>=2.17,<3',
            'kubeflow-trainer-api>=2.3.0,<3',
            'peft>=0.21.2,<0.22; python_version < "3.12"',
            'pyrefly>=1.5.0,<2',
            'pytest>=9.2.0,<10',
            'pytest-xdist>=3.8.0,<4',
            'ruff>=0.17.6,<0.18',
            'torch==2.13.0; python_version < "3.12"',
            'trl>=1.16.0,<2; python_version < "3.12"',
        ],
    },
)
