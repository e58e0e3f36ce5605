"""Where each of our parameters lies in a file of transformers: its name, and its part of it where several share one."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pronk.folders.architectures import equal
from pronk.models.config import ModelConfig


@dataclass(frozen=True)
class Place:
    """A tensor of a file. transposed: it is stored [in, out], as GPT-2's; part of parts: our rows among its rows."""

    name: str
    part: int = 0
    parts: int = 1
    transposed: bool = False

    def shape(self, ours: tuple[int, ...]) -> list[int]:
        """The whole stored tensor's, from the parameter's."""
        whole = [ours[0] * self.parts, *ours[1:]]
        return whole[::-1] if self.transposed else whole

    def take(self, stored: Tensor) -> Tensor:
        """Our parameter out of the stored tensor."""
        return (stored.T if self.transposed else stored).chunk(self.parts)[self.part]


Rename = Callable[[str], Place | None]  # our parameter's name -> its place; None = it is in no file

LLAMA = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "blocks": "model.layers",
    "attention_norm": "input_layernorm",
    "feedforward_norm": "post_attention_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "feedforward.gate": "mlp.gate_proj",
    "feedforward.up": "mlp.up_proj",
    "feedforward.down": "mlp.down_proj",
}
QWEN = LLAMA | {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
PHI = LLAMA | {
    "norm": "model.final_layernorm",
    "attention.o": "self_attn.dense",
    "feedforward.up": "mlp.fc1",
    "feedforward.down": "mlp.fc2",
}
NEO = {
    "embed": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "blocks": "transformer.h",
    "attention_norm": "ln_1",
    "feedforward_norm": "ln_2",
    "attention.q": "attn.attention.q_proj",
    "attention.k": "attn.attention.k_proj",
    "attention.v": "attn.attention.v_proj",
    "attention.o": "attn.attention.out_proj",
    "feedforward.up": "mlp.c_fc",
    "feedforward.down": "mlp.c_proj",
}
JOINED = ["attention.q", "attention.k", "attention.v"]
GPT2 = NEO | dict.fromkeys(JOINED, "attn.c_attn") | {"attention.o": "attn.c_proj"}
GPT = GPT2 | {"embed": "transformer.tokens_embed", "position_embedding": "transformer.positions_embed"}
NAMES = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen3ForCausalLM": QWEN,
    "PhiForCausalLM": PHI,
    "GPT2LMHeadModel": GPT2,
    "OpenAIGPTLMHeadModel": GPT,
    "GPTNeoForCausalLM": NEO,
}
JOINED = ["attention.q", "attention.k", "attention.v"]


def unchanged(name: str) -> Place:
    return Place(name)


def names_of(config: ModelConfig) -> Rename:
    """Transformers' names where it has the architecture, else our own."""
    known = equal(config)
    return renamer(known.name) if known else unchanged


def renamer(architecture: str) -> Rename:
    """blocks.3.attention.q.weight -> model.layers.3.self_attn.q_proj.weight, for one architecture."""
    names = NAMES[architecture]

    def rename(name: str) -> Place:
        module, _, kind = name.rpartition(".")
        if not module.startswith("blocks."):
            return Place(f"{names[module]}.{kind}")
        _, layer, part = module.split(".", 2)
        stored = f"{names['blocks']}.{layer}.{names[part]}.{kind}"
        if names in (GPT2, GPT) and "norm" not in part:  # transformers' Conv1D
            place = (JOINED.index(part), len(JOINED)) if part in JOINED else (0, 1)
            return Place(stored, *place, transposed=kind == "weight")
        return Place(stored)

    return rename


def scorers(rename: Rename) -> Rename:
    """The places of a Scorer's tensors, given its body's; its bias is in config.json."""

    def renamed(name: str) -> Place | None:
        if name in ("value.bias", "body.head.weight"):
            return None
        return Place("score.weight") if name == "value.weight" else rename(name.removeprefix("body."))

    return renamed
