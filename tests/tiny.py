"""Tiny models for tests: torch checkpoints in the Hugging Face layout, and comparisons."""

from __future__ import annotations

import copy
import json

import numpy as np

NO_TORCH = (
    "compared with torch, which the test extra has for Python 3.11: pip install -e '.[test]' there"
)
LLAMA3_ROPE = {
    'rope_type': 'llama3',
    'rope_theta': 10000.0,
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 64,
}
GEMMA3_ROPE = {
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 100.0},
    'full_attention': {'rope_type': 'linear', 'rope_theta': 10000.0, 'factor': 8.0},
}

# Arguments of `save_torch`. A new family gets an entry here.
SHAPES = {
    'llama': dict(family='llama', num_key_value_heads=4, tie_word_embeddings=False),
    'llama grouped tied': dict(family='llama', num_key_value_heads=2, tie_word_embeddings=True),
    'llama bias': dict(family='llama', num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    'llama 3 rope': dict(
        family='llama', num_key_value_heads=2, rope_parameters=LLAMA3_ROPE, rope_theta=None
    ),
    'llama wide heads': dict(family='llama', num_key_value_heads=2, head_dim=12),
    'mistral window': dict(family='mistral', num_key_value_heads=2, sliding_window=40, head_dim=16),
    'mistral full bf16': dict(
        family='mistral', num_key_value_heads=4, sliding_window=None, dtype='bfloat16'
    ),
    'qwen2 tied': dict(family='qwen2', num_key_value_heads=2, tie_word_embeddings=True),
    'qwen2 untied sharded bf16': dict(
        family='qwen2',
        num_key_value_heads=1,
        tie_word_embeddings=False,
        dtype='bfloat16',
        shards='20KB',
    ),
    'qwen2 upper layers window': dict(
        family='qwen2',
        num_key_value_heads=2,
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=24,
        max_window_layers=1,
    ),
    'qwen3 untied': dict(
        family='qwen3', num_key_value_heads=2, head_dim=16, tie_word_embeddings=False
    ),
    'qwen3 tied sharded': dict(
        family='qwen3', num_key_value_heads=4, head_dim=8, tie_word_embeddings=True, shards='20KB'
    ),
    'gemma': dict(family='gemma', num_key_value_heads=1, head_dim=12),
    'gemma2 remainder': dict(
        family='gemma2',
        num_key_value_heads=2,
        num_hidden_layers=3,
        head_dim=12,
        sliding_window=33,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    ),
    'gemma2 bf16': dict(
        family='gemma2',
        num_key_value_heads=4,
        num_hidden_layers=2,
        head_dim=8,
        sliding_window=50,
        dtype='bfloat16',
    ),
    'gemma3 periods': dict(
        family='gemma3_text',
        num_key_value_heads=1,
        num_hidden_layers=12,
        head_dim=8,
        sliding_window=20,
        rope_parameters=GEMMA3_ROPE,
        rope_theta=None,
    ),
    'gemma3 remainder': dict(
        family='gemma3_text',
        num_key_value_heads=2,
        num_hidden_layers=8,
        head_dim=8,
        sliding_window=20,
        rope_parameters=GEMMA3_ROPE,
        rope_theta=None,
        query_pre_attn_scalar=16,
    ),
}


def save_torch(
    directory, family='qwen2', dtype='float32', shards='5GB', seed=0, vocab_size=96, **changes
):
    """Writes a random torch model and returns it in float32, with the weights as they are stored.

    Args:
      directory: where to write.
      family: `model_type` of the model.
      dtype: dtype of the files.
      shards: largest size of one file.
      seed: seed of the weights.
      vocab_size: rows of the embedding table.
      **changes: other fields of `config.json`; None for `rope_theta` leaves it out.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        rope_theta=10000.0,
        initializer_range=0.3,
        pad_token_id=None,
    )
    fields |= changes
    fields = {key: value for key, value in fields.items() if key != 'rope_theta' or value}
    config = AutoConfig.for_model(family, **fields)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation='eager')
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'norm' in name or 'bias' in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            # `.to()` on the model would round RoPE too.
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shards)
    return model.eval()


def save_with_vision_tower(directory, vocab_size):
    """Writes a random Gemma 3 with a vision tower and returns it."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        key: value
        for key, value in SHAPES['gemma3 periods'].items()
        if key not in ('family', 'rope_theta')
    }
    text |= dict(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    vision = dict(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=28,
    )
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(directory)
    return model


def tiny_arch(**changes):
    """Returns a small `Architecture` with some fields changed."""
    from bsft_jax.models.architecture import Architecture, LayerKind
    from bsft_jax.ops.rope import Rope

    fields = dict(
        family='qwen2',
        vocab_size=96,
        embed_dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=48,
        max_positions=64,
        kinds=(LayerKind(Rope(10000.0)),),
        norm_eps=1e-6,
        tied=True,
        qkv_bias=True,
    )
    return Architecture(**fields | changes)


def assert_close(actual, reference, tolerance):
    """Asserts that |actual − reference| ≤ tolerance · max(1, max|reference|)."""
    actual, reference = np.asarray(actual), np.asarray(reference)
    assert actual.shape == reference.shape
    worst = np.abs(actual - reference).max()
    assert worst <= tolerance * max(1.0, np.abs(reference).max()), worst


def random_model(directory, tied=True, vocab_size=320, spare=True, width=32):
    """Writes a random Qwen2 with a tokenizer of its own, without torch, and returns its folder.

    Args:
      directory: where to write, in the Hugging Face layout.
      tied: whether the LM head is the embedding table.
      vocab_size: number of ids of the tokenizer.
      spare: whether the table has more rows than the tokenizer has ids.
      width: its hidden size; the MLP is half as wide again.
    """
    import jax
    from safetensors.numpy import save_file

    from bsft_jax.data import sources, tokenizer_training
    from bsft_jax.hub import configs, tables
    from bsft_jax.models.network import Network
    from bsft_jax.pytrees import flatten

    records = sources.load_records('synthetic_text:200', 'train')
    texts = [text for record in records for text in tokenizer_training.texts_of(record)]
    tokenizer = tokenizer_training.train_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(str(directory))
    config = tokenizer_training.blank_config(tokenizer) | {
        'hidden_size': width,
        'intermediate_size': 3 * width // 2,
        'num_hidden_layers': 2,
        'max_position_embeddings': 512,
        'tie_word_embeddings': tied,
    }
    if not spare:
        config['vocab_size'] = len(tokenizer)
    (directory / 'config.json').write_text(json.dumps(config))
    arch = configs.architecture_of(config)
    params = flatten(Network(arch).init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    tensors = {}
    for path, entry in tables.entries(arch, params).items():
        noise = 0.15 * rng.normal(size=params[path].shape).astype(np.float32)
        value = np.asarray(params[path]) + noise
        for i, name in enumerate(entry.tensors):
            tensor = value[i] if entry.stacked else value
            tensors[name] = np.ascontiguousarray(tensor.T if entry.transpose else tensor)
    save_file(tensors, directory / 'model.safetensors', metadata={'format': 'pt'})
    return directory
