"""How far a plain prototype of decoding gets on a GPU: joined products, torch's attention, a compiled step in a graph.

What anybody would write in an afternoon, for bench/generate.py to compare with; no part of pronk.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, kv_heads, head_dim, inner):
        super().__init__()
        self.sizes, self.head_dim = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], head_dim
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.o = (
            nn.Linear(width, sum(self.sizes), bias=False),
            nn.Linear(heads * head_dim, width, bias=False),
        )
        self.up, self.down = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x, turn, cache, at, mask):
        B = len(x)
        q, k, v = (
            p.view(B, 1, -1, self.head_dim).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(self.sizes, -1)
        )
        q, k = turn(q), turn(k)
        keys, values = cache
        keys.index_copy_(2, at, k)
        values.index_copy_(2, at, v)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        x = x + self.o(y.transpose(1, 2).reshape(B, 1, -1))
        gate, up = self.up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Prototype(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config
        self.embed, self.norm = nn.Embedding(c.vocab, c.width), nn.RMSNorm(c.width)
        shape = (c.width, c.heads, c.key_heads, c.head_size, c.inner)
        self.blocks = nn.ModuleList(Block(*shape) for _ in range(c.layers))
        self.head = nn.Linear(c.width, c.vocab, bias=False)

    def forward(self, token, at, cosine, sine, caches):
        def turn(x):
            a, b = x.float().chunk(2, -1)
            return torch.cat([a * cosine[at] - b * sine[at], b * cosine[at] + a * sine[at]], -1).to(x.dtype)

        mask = (torch.arange(len(cosine), device=token.device) <= at)[None, None, None]
        x = self.embed(token)
        for block, cache in zip(self.blocks, caches):
            x = block(x, turn, cache, at, mask)
        chances = self.head(self.norm(x[:, -1])).float().softmax(-1)
        return (chances / torch.empty_like(chances).exponential_(1)).argmax(-1, keepdim=True), at + 1


@torch.no_grad()
def decode(config, rows, prompt, new):
    """A function that replays `new` steps for `rows` rows from position `prompt` on (no prefill, no ids read)."""
    torch._dynamo.reset()
    made = Prototype(config).to("cuda", torch.bfloat16).eval()
    length, size = prompt + new, config.head_size
    frequencies = 1e4 ** -(torch.arange(0, size, 2, device="cuda") / size)
    angles = torch.outer(torch.arange(length, device="cuda").float(), frequencies)
    shape = (rows, config.key_heads, length, size)
    caches = [[torch.zeros(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2)] for _ in range(config.layers)]
    token, at = torch.zeros(rows, 1, dtype=torch.int64, device="cuda"), torch.tensor([prompt], device="cuda")
    step = torch.compile(made, fullgraph=True)
    given = (token, at, angles.cos(), angles.sin(), caches)
    for _ in range(3):
        step(*given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for old, next_ in zip((token, at), step(*given)):
            old.copy_(next_)

    def run():
        at.fill_(prompt)
        for _ in range(new):
            graph.replay()
        torch.cuda.synchronize()

    return run
