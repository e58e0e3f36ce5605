"""A faster twin of a model, for generation on a CPU: the same numbers from fewer products; it never trains."""

from dataclasses import fields
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.models.attention import Attention, attend, visible
from pronk.models.build import Model
from pronk.models.decoder import Block, Decoder
from pronk.models.feedforward import SwiGLU, SwiGLUSingle
from pronk.models.heads import Head, Output
from pronk.models.positions import Rotary, Unplaced, rotate
from pronk.models.state import KVState, State

# What a twin is written for: a model of other parts, or with another knob turned, runs itself.
PARTS = {Decoder, Block, Attention, SwiGLU, SwiGLUSingle, Rotary, Head}
PARTS |= {Unplaced, nn.Identity, nn.ModuleList, nn.Linear, nn.Embedding, nn.RMSNorm, nn.Dropout}
KNOBS = {
    *("preset", "family", "vocab", "width", "layers", "heads", "kv_heads", "head_dim", "feedforward", "ffn_dim"),
    *("ffn_dim_multiplier", "multiple_of", "context", "norm_eps", "rope_theta", "rope_factor", "rope_low", "rope_high"),
    *("rope_original", "tied", "dropout"),
}


def quicken(model: Model, runs: "Model | Twin | None" = None) -> "Model | Twin":
    """What to run in place of `model`, with the weights that it has now: a twin, or the model itself where no twin
    is known. runs: what ran the last time; a twin of this model is refreshed and returned."""
    if not known(model):
        return model
    twin = runs if isinstance(runs, Twin) and runs.fits(model) else Twin(model)
    twin.refresh(model)
    return twin


def known(model: nn.Module) -> TypeGuard[Decoder]:
    """Whether a twin gives what this model gives: a plain Llama on a CPU, with nothing wrapped, hooked or added."""
    if not isinstance(model, Decoder) or model.embed.weight.device.type != "cpu":
        return False
    config = model.config
    if config.family != "decoder" or config.feedforward not in ("swiglu", "swiglu-single"):
        return False
    if any(getattr(config, f.name) != f.default for f in fields(config) if f.name not in KNOBS):
        return False
    return all(_plain(name, module) for name, module in model.named_modules())


def _plain(name: str, module: nn.Module) -> bool:
    biased = isinstance(module, nn.Linear) and module.bias is not None and not name.endswith(("gate_up", "down"))
    return type(module) in PARTS and not (biased or module._forward_hooks or module._forward_pre_hooks)


class Twin:
    """Runs a decoder's weights, those that multiply the same vectors joined: q, k and v; gate and up."""

    def __init__(self, model: Decoder) -> None:
        self.config, self.head, self.new_state = model.config, model.head, model.new_state
        self._of, self._dtype = model, model.embed.weight.dtype

    def fits(self, model: Model) -> bool:
        return model is self._of and model.embed.weight.dtype == self._dtype

    @torch.no_grad()
    def refresh(self, model: Decoder) -> None:
        """Take the weights as they are now: training changes them in place."""
        self.layers = [Layer(cast(Block, block)) for block in model.blocks]

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: State | None = None,
    ) -> Output:
        """As Decoder.forward, without gradients and with a state."""
        if not isinstance(state, KVState):
            return self._of(tokens, positions, documents, state)
        model, T = self._of, tokens.shape[1]
        places = positions if positions is not None else torch.arange(T, device=tokens.device).expand_as(tokens)
        columns = state.columns(places)
        mask = visible(positions, documents, state, T)
        rotary = model.rotary(positions, T)
        x = model.embed(tokens)
        for number, layer in enumerate(self.layers):
            x = layer.forward(x, rotary, mask, state, columns, number)
        return Output(model.norm(x), self.head)


class Layer:
    """One block."""

    def __init__(self, block: Block) -> None:
        a, f = block.attention, block.feedforward
        self.down = cast(SwiGLU | SwiGLUSingle, f).down
        self.block, self.heads, self.kv_heads, self.head_dim = block, a.heads, a.kv_heads, a.head_dim
        self.qkv = torch.cat((a.q.weight, a.k.weight, a.v.weight))
        if isinstance(f, SwiGLU):
            self.gate_up, self.bias = torch.cat((f.gate.weight, f.up.weight)), cast(Tensor | None, None)
        else:
            f = cast(SwiGLUSingle, f)
            self.gate_up, self.bias = f.gate_up.weight, f.gate_up.bias

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, state: KVState, columns: Tensor, layer: int
    ) -> Tensor:
        B, T, _ = x.shape
        heads, kv_heads = self.heads, self.kv_heads
        joined = F.linear(self.block.attention_norm(x), self.qkv).view(B, T, -1, self.head_dim).transpose(1, 2)
        turned = rotate(joined[:, : heads + kv_heads], *rotary)
        q, k, v = turned[:, :heads], turned[:, heads:], joined[:, heads + kv_heads :]
        state.write(layer, columns, k, v)
        if not state.fresh:
            k, v = state.read(layer)
        x = x + self.block.attention.o(attend(q, k, v, mask).transpose(1, 2).reshape(B, T, -1))
        gate, up = F.linear(self.block.feedforward_norm(x), self.gate_up, self.bias).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)
