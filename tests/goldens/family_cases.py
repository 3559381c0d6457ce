"""The cases of `families.py`: which tiny model of which family, and what is special about it.

Sizes are such that nothing divides evenly where it need not (heads, intermediate widths), windows are shorter than the
samples, and options that change the mathematics are large enough to show. A case's seed is what `families.py --search`
found; change a config and search again.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

VOCAB = 53
LLAMA_BLOCKS = ("layers", "norm")
T5_BLOCKS = ("encoder.block", "encoder.final_layer_norm", "decoder.block", "decoder.final_layer_norm")


@dataclasses.dataclass
class Case:
    """One folder of `data/families`."""

    name: str
    kind: str
    """encoder, decoder or encoder-decoder"""
    config: PreTrainedConfig
    model: type[PreTrainedModel]
    """The class that writes the checkpoint, with the head that it has on the hub."""
    blocks: tuple[str, ...]
    """Paths of layer lists and final norms inside the base class, in forward order."""
    targets: list[str]
    """`target_modules` of adapter a."""
    seed: int = 0
    adapted: type[PreTrainedModel] | None = None
    """The class that adapters are trained on, where it is another."""
    adapter: dict = dataclasses.field(default_factory=dict)
    """What both adapters' `LoraConfig` has in common."""
    finish: Callable[[PreTrainedModel], None] = lambda model: None
    """Called on the fresh model, before its weights are drawn."""
    dtype: torch.dtype = torch.float32
    saving: dict = dataclasses.field(default_factory=dict)
    old_spelling: Callable[[dict], dict] | None = None
    """`config.json` as hub checkpoints spell it."""
    generation: dict = dataclasses.field(default_factory=dict)
    """Set in `generation_config.json`."""
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    """Special tokens around every text."""
    first_word: int = 3
    """Ids below are special."""
    pad: int = 0
    pads: tuple[str, ...] = ("right", "left")
    """Sides on which padded batches give in transformers what samples alone give."""
    stop_tokens: tuple[int, ...] = ()
    stop_boost: float = 1.6
    embedding_scale: float = 0.7
    weight_scale: float = 1.4
    zero_centered_norms: bool = False
    start: bool = False
    """Merge once more with decoder inputs of the start token alone."""
    completion: bool = False
    """Merge once more with the rows of completions alone."""
    classifies: bool = False
    controls_only: bool = False
    """Only what the base writes under its generation settings; no adapters."""

    @property
    def generates(self) -> bool:
        return self.kind != "encoder"

    @property
    def vocab(self) -> int:
        return self.config.vocab_size

    def build(self) -> PreTrainedModel:
        model = self.model(self.config)
        self.finish(model)
        return model

    def load(self, folder: pathlib.Path, for_adapters: bool = False) -> PreTrainedModel:
        """The written checkpoint in f32; with `for_adapters` in the class that adapters are trained on."""
        torch.manual_seed(0)
        kind = self.adapted if for_adapters and self.adapted else self.model
        return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def untie(model: PreTrainedModel) -> None:
    """T5's config ties always; a checkpoint with an `lm_head.weight` of its own is untied all the same."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def llama(**more) -> LlamaConfig:
    return LlamaConfig(
        **dict(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=28,
            max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
        ) | more
    )  # fmt: skip


def t5(**more) -> dict:
    return dict(
        vocab_size=VOCAB, d_model=16, d_kv=6, num_heads=3, d_ff=28, num_layers=2, num_decoder_layers=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0,
    ) | more  # fmt: skip


def bart(**more) -> BartConfig:
    return BartConfig(
        **dict(
            vocab_size=VOCAB, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=2,
            encoder_ffn_dim=28, decoder_ffn_dim=24, max_position_embeddings=40,
        ) | more
    )  # fmt: skip


SEQ_2_SEQ = {"task_type": "SEQ_2_SEQ_LM"}
CAUSAL = {"task_type": "CAUSAL_LM"}

CASES = [
    Case(
        "llama", "decoder", llama(tie_word_embeddings=True), LlamaForCausalLM, LLAMA_BLOCKS, ["q_proj", "v_proj"],
        seed=1, adapter=CAUSAL, begin=(1,), stop_tokens=(2,), completion=True,
    ),
    Case(
        "t5", "encoder-decoder", T5Config(**t5()), T5ForConditionalGeneration, T5_BLOCKS, ["q", "v"],
        seed=14, adapter=SEQ_2_SEQ, end=(1,), stop_tokens=(1,), stop_boost=2.0, weight_scale=1.7, start=True,
    ),
    Case(
        "gpt2", "decoder",
        GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_inner=28, n_positions=48, bos_token_id=0, eos_token_id=0),
        GPT2LMHeadModel, ("h", "ln_f"), ["c_attn"],
        seed=10, adapter=CAUSAL | {"fan_in_fan_out": True}, first_word=1, stop_tokens=(0,),
    ),
    Case(
        "bart", "encoder-decoder", bart(), BartForConditionalGeneration, ("encoder.layers", "decoder.layers"), ["q_proj", "v_proj"],
        seed=8, adapter=SEQ_2_SEQ, begin=(0,), end=(2,), pad=1, pads=("right",), stop_tokens=(2,), stop_boost=2.0, generation={"forced_bos_token_id": 0},
    ),
]  # fmt: skip
