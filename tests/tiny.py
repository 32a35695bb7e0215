"""Tiny models that tests make: torch checkpoints in the Hugging Face layout, and comparisons."""

import copy

import numpy as np

SHAPES = {
    'llama': dict(family='llama', num_key_value_heads=4, tie_word_embeddings=False),
    'llama grouped tied': dict(family='llama', num_key_value_heads=2, tie_word_embeddings=True),
    'llama bias': dict(family='llama', num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    'qwen2 tied': dict(family='qwen2', num_key_value_heads=2, tie_word_embeddings=True),
    'qwen2 untied sharded bf16': dict(
        family='qwen2', num_key_value_heads=1, tie_word_embeddings=False, dtype='bfloat16', shards='20KB'
    ),
}


def save_torch(directory, family='qwen2', dtype='float32', shards='5GB', seed=0, vocab_size=96, **changes):
    """Writes a random torch model and returns it in float32, with the weights as they were stored."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config_class, model_class = {
        'llama': (LlamaConfig, LlamaForCausalLM),
        'qwen2': (Qwen2Config, Qwen2ForCausalLM),
    }[family]
    config = config_class(
        **dict(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=512, rope_theta=10000.0, initializer_range=0.3,
        )
        | changes
    )  # fmt: skip
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'norm' in name or 'bias' in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            parameter.copy_(parameter.to(getattr(torch, dtype)))  # .to() on the model would round RoPE too
    copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shards)
    return model.eval()


def assert_close(actual, reference, tolerance):
    """|a − b| ≤ tolerance · max(1, max|reference|)."""
    actual, reference = np.asarray(actual), np.asarray(reference)
    assert actual.shape == reference.shape
    worst = np.abs(actual - reference).max()
    assert worst <= tolerance * max(1.0, np.abs(reference).max()), worst


def random_model(directory, tied=True, vocab_size=320, spare=True):
    """A random Qwen2 with a tokenizer of its own, in the Hugging Face layout, made without torch."""
    import json

    import jax
    from safetensors.numpy import save_file

    from bsft_jax.behaviorbench import sources
    from bsft_jax.data import tokenizer_training
    from bsft_jax.hub import tables
    from bsft_jax.models import architecture
    from bsft_jax.models.network import Network
    from bsft_jax.trees import flatten

    told = sources.load_records('synthetic_text:200', 'train')
    texts = [text for record in told for text in tokenizer_training.texts_of(record)]
    tokenizer = tokenizer_training.train_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(str(directory))
    config = tokenizer_training.blank_config(tokenizer) | {
        'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 2, 'max_position_embeddings': 512,
        'tie_word_embeddings': tied,
    }  # fmt: skip
    if not spare:
        config['vocab_size'] = len(tokenizer)
    (directory / 'config.json').write_text(json.dumps(config))
    arch = architecture.from_hf_config(config)
    params = flatten(Network(arch).init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    tensors = {}
    for path, entry in tables.entries(arch, params).items():
        value = np.asarray(params[path]) + 0.15 * rng.normal(size=params[path].shape).astype(np.float32)
        for i, name in enumerate(tables.tensor_names(entry, arch)):
            tensor = value[i] if entry.stacked else value
            tensors[name] = np.ascontiguousarray(tensor.T if entry.transpose else tensor)
    save_file(tensors, directory / 'model.safetensors', metadata={'format': 'pt'})
    return directory
