"""A faster twin of a model, for generation on a CPU: the same numbers from fewer and quicker steps; it never trains."""

import math
import mmap
import sys
from dataclasses import fields
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.engine.twin_step import Layer, Weights, hidden, homes, joined, norm, places, plain, rest, views
from pronk.models.attention import Attention, attend, visible
from pronk.models.build import Model
from pronk.models.config import ModelConfig
from pronk.models.decoder import Block, Decoder
from pronk.models.feedforward import SwiGLU, SwiGLUSingle
from pronk.models.heads import Head, Output
from pronk.models.norms import RMSNorm
from pronk.models.positions import Rotary, Unplaced
from pronk.models.state import Rows, State

# What a twin is written for: a model of other parts, or with another knob turned, runs itself.
PARTS = {Decoder, Block, Attention, SwiGLU, SwiGLUSingle, Rotary, Unplaced, Head}
PARTS |= {nn.Identity, nn.ModuleList, nn.Linear, nn.Embedding, RMSNorm, nn.Dropout}
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
    twin.refresh()
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
    return type(model.head) is Head and all(_plain(name, module) for name, module in model.named_modules())


def _plain(name: str, module: nn.Module) -> bool:
    biased = isinstance(module, nn.Linear) and module.bias is not None and not name.endswith(("gate_up", "down"))
    return type(module) in PARTS and not (biased or module._forward_hooks or module._forward_pre_hooks)


class Twin:
    """Runs a decoder's own weights, with q, k and v joined.

    Queries and keys are kept with the dimensions that turn together, i and i + half, side by side: a rotation is then
    one product of complex numbers. Both have the same order, so attention's scores are the model's.
    """

    def __init__(self, model: Decoder) -> None:
        self._of, self.config, self.dtype = model, model.config, model.embed.weight.dtype
        self.size = sum(parameter.numel() for parameter in model.parameters())

    def fits(self, model: Decoder) -> bool:
        """Whether this is the twin of `model` once refreshed, with states that stay as they are."""
        return model is self._of and model.embed.weight.dtype == self.dtype

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights as they are now. All but the joined ones and the norms' are the model's own memory."""
        model, c = self._of, self.config
        rotary = cast(Rotary, model.rotary)
        self.weights = Weights(
            layers=[_layer(cast(Block, block), c) for block in model.blocks],
            embed=model.embed.weight.detach(),
            turns=torch.complex(rotary.cosine.float(), rotary.sine.float()),
            norm=_rooted(cast(RMSNorm, model.norm)).detach(),
            head=model.head.weight.detach().t(),
            least=torch.tensor((c.norm_eps * c.width) ** 0.5, dtype=self.dtype),
            eps=c.norm_eps,
            heads=c.heads,
            key_heads=c.key_heads,
            head_size=c.head_size,
            few=_few(self.dtype),
        )
        self.head = TwinHead(model.head, self.weights.few)

    def new_state(self, rows: int, length: int) -> "TwinState":
        """Room for the keys and values of `rows` sequences of up to `length` tokens, in float32 at least: products of
        bfloat16 copy a state of which they need a part."""
        c, dtype = self.config, torch.promote_types(self.dtype, torch.float32)
        return TwinState((2 * c.layers, rows, c.key_heads, length + 1, c.head_size), dtype)

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: State | None = None,
    ) -> Output:
        """As Decoder.forward, without gradients."""
        B, T = tokens.shape
        at = torch.arange(T).expand_as(tokens) if positions is None else positions
        part = cast(TwinState | None, state)
        if part is not None and T == 1 and not part.fresh and isinstance(part.rows, slice):
            start, end = part.rows.start, part.rows.stop
            kept, begin = views(part.memory, start, end), homes(part.memory, torch.arange(start, end))
            x = hidden(self.weights, kept, begin, tokens, at, part.span)
        else:
            x = self._forward(tokens, at, documents, part)
        return Output(x.view(B, T, -1), self.head)

    def _forward(self, tokens: Tensor, at: Tensor, documents: Tensor | None, state: "TwinState | None") -> Tensor:
        """Hidden vectors [B T, D]; positions below 0 are padding."""
        (B, T), w, K = tokens.shape, self.weights, self.config.head_size
        dtype = torch.promote_types(self.dtype, torch.float32)
        turns = w.turns.index_select(0, at.clamp(min=0).flatten())[:, None]
        fresh = state is None or state.fresh
        slots = None if state is None else state.slots(at)
        if fresh:
            mask = visible(None, documents, None, T)
        else:
            mask = (torch.arange(cast(TwinState, state).span) <= at.clamp(min=0)[:, :, None])[:, None]
        x = F.embedding(tokens.flatten(), w.embed)
        for number, layer in enumerate(w.layers):
            whole = joined(x, layer, turns, w, dtype)
            if state is not None and slots is not None:
                state.write(number, slots, whole[:, w.heads :])
            q, k, v = whole.view(B, T, -1, K).transpose(1, 2).tensor_split((w.heads, w.heads + w.key_heads), 1)
            if state is not None and not fresh:
                k, v = state.read(number)
            x = rest(x, attend(q, k, v, mask).transpose(1, 2).reshape(B * T, -1), layer, w)
        return norm(x, w.norm, w)


class TwinHead(Head):
    """The model's head, by the twin's products."""

    def __init__(self, head: Head, few: int) -> None:
        super().__init__(0, 0, cast(nn.Embedding, head))  # shares its weight
        self.few = few

    def forward(self, hidden: Tensor) -> Tensor:
        return plain(hidden.flatten(0, -2), self.weight.t(), None, self.few).view(*hidden.shape[:-1], -1)


def _layer(block: Block, config: ModelConfig) -> Layer:
    a, f = block.attention, block.feedforward
    turned = torch.cat((a.q.weight, a.k.weight)).view(-1, 2, config.head_size // 2, config.width).transpose(1, 2)
    if isinstance(f, SwiGLUSingle):
        (gate, up), (gate_bias, up_bias) = f.gate_up.weight.chunk(2), f.gate_up.bias.chunk(2)
    else:
        f = cast(SwiGLU, f)
        gate, up, gate_bias, up_bias = f.gate.weight, f.up.weight, f.gate.bias, f.up.bias
    norms = (_rooted(cast(RMSNorm, norm)) for norm in (block.attention_norm, block.feedforward_norm))
    weights = (torch.cat((turned.flatten(0, 2), a.v.weight)), a.o.weight, gate, up, f.down.weight)
    qkv, o, gate, up, down = (weight.detach().t() for weight in weights)
    first, second = (norm.detach() for norm in norms)
    biases = (None if bias is None else bias.detach() for bias in (gate_bias, up_bias, f.down.bias))
    return Layer(first, qkv, o, second, gate, up, down, *biases)


def _rooted(norm: RMSNorm) -> Tensor:
    """A norm's weight as twin_step.norm takes it."""
    return norm.weight if norm.weight.element_size() < 4 else norm.weight * len(norm.weight) ** 0.5


def _few(dtype: torch.dtype) -> int:
    """Rows of a product from which oneDNN, with what follows in the same call, is quicker than MKL: on a processor with
    AVX-512, for types that it takes. Elsewhere its calls take longer than MKL's and the rest together (LOG.md)."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not built or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return sys.maxsize
    wide = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return 16 if wide or dtype == torch.float32 else sys.maxsize


class TwinState(State):
    """Each layer's keys and values in turn, [2 layers, rows, heads, length + 1, head_dim]; the last column swallows
    padding."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.memory = _on_huge_pages(shape, dtype)
        self.rows, self.span, self.fresh = slice(0, shape[1]), shape[3] - 1, False

    def select(self, rows: Rows, span: int, fresh: bool = False) -> "TwinState":
        part = object.__new__(TwinState)
        part.memory, part.rows, part.span, part.fresh = self.memory, rows, span, fresh
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        self.memory[:, target, :, : self.span] = self.memory[:, source, :, : self.span]

    def slots(self, positions: Tensor) -> Tensor:
        """Places of the selected rows' positions [B, T]: see twin_step.places."""
        rows = torch.arange(self.rows.start, self.rows.stop) if isinstance(self.rows, slice) else self.rows
        return places(self.memory, rows, positions)

    def write(self, layer: int, slots: Tensor, both: Tensor) -> None:
        """Store keys and values [B T, 2 heads, head_dim]."""
        self.memory[2 * layer : 2 * layer + 2].flatten(0, 3).index_copy_(0, slots, both.flatten(0, 1))

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the selected rows, [B, heads, span, head_dim]."""
        keys, values = self.memory[2 * layer : 2 * layer + 2, self.rows, :, : self.span]
        return keys, values


def _on_huge_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros. A step reads all of a state once: with pages of 4 KB that takes twice as long, in a virtual machine."""
    if sys.platform != "linux":
        return torch.zeros(shape, dtype=dtype)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
