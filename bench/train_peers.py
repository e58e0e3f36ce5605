"""Training steps of others, as their users write them: transformers' Llama, and a plain GPT-2 with nanoGPT's recipe.

Both: fp32 parameters, bf16 by autocast, torch.compile of the whole model, fused AdamW. For bench/train.py.
"""

import torch
import torch.nn.functional as F
from shakespeare_cpu import GPT


def optimized(model, logits_of, ids, device="cuda", precision="bf16"):
    """A step of one batch ids [B, T + 1]: logits_of(tokens [B, T]) -> [B, T, V]."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = logits_of(ids[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def llama(m, **more):
    """transformers' Llama of the shape of a ModelConfig, random weights; more: keys of its config."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=m.vocab,
        hidden_size=m.width,
        intermediate_size=m.inner,
        num_hidden_layers=m.layers,
        num_attention_heads=m.heads,
        num_key_value_heads=m.key_heads,
        max_position_embeddings=m.context,
        rms_norm_eps=m.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": m.rope_theta},
        tie_word_embeddings=m.tied,
        attn_implementation="sdpa",
        **more,
    )
    return LlamaForCausalLM(config)


def transformers_step(row, compiled=True, device="cuda", precision="bf16"):
    model = llama(row.model, use_cache=False).to(device)
    ids = torch.randint(0, row.model.vocab, (row.batch, row.length + 1), device=device)
    forward = torch.compile(model) if compiled else model
    return optimized(model, lambda tokens: forward(input_ids=tokens).logits, ids, device, precision)


def nanogpt_step(row):
    """GPT-2's shape as nanoGPT trains it: no biases, the vocabulary rounded up to a multiple of 64."""
    m = row.model
    model = GPT(-(-m.vocab // 64) * 64, m.width, m.layers, m.heads, row.length).cuda()
    ids = torch.randint(0, m.vocab, (row.batch, row.length + 1), device="cuda")
    return optimized(model, torch.compile(model), ids)
