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
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
    MT5Config,
    MT5ForConditionalGeneration,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
)

VOCAB = 53
LLAMA_BLOCKS = ("layers", "norm")
NEOX_BLOCKS = ("layers", "final_layer_norm")
T5_BLOCKS = ("encoder.block", "encoder.final_layer_norm", "decoder.block", "decoder.final_layer_norm")
BART_BLOCKS = ("encoder.layers", "decoder.layers")
Q_V = ["q_proj", "v_proj"]
SEQ_2_SEQ = {"task_type": "SEQ_2_SEQ_LM"}
CAUSAL = {"task_type": "CAUSAL_LM"}
FEATURES = {"task_type": "FEATURE_EXTRACTION"}


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
    old_config: Callable[[dict], dict] | None = None
    """`config.json` as hub checkpoints spell it."""
    old_weights: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    """Tensor names, and tensors that mean nothing, as hub checkpoints have them."""
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
    matters: tuple[dict, ...] = ()
    """Changes of the config each of which must show in the outputs."""
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

    def load(self, folder: pathlib.Path, for_adapters: bool = False, **options) -> PreTrainedModel:
        """The written checkpoint in f32; with `for_adapters` in the class that adapters are trained on; under other options."""
        torch.manual_seed(0)
        kind = self.adapted if for_adapters and self.adapted else self.model
        return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **options).eval()


def untie(model: PreTrainedModel) -> None:
    """T5's config ties always; a checkpoint with an `lm_head.weight` of its own is untied all the same."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def rope(theta: float, **more) -> dict:
    return {"rope_type": "default", "rope_theta": theta} | more


def ropes(full: dict, sliding: dict) -> dict:
    return {"full_attention": full, "sliding_attention": sliding}


def llama_like(**more) -> dict:
    """Four heads that share two keys, of which each is four wide."""
    return dict(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=28,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    ) | more  # fmt: skip


def t5(**more) -> dict:
    """Heads whose widths do not add up to the model's; few buckets, so that the logarithmic ones are reached."""
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


def neox(**more) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=28,
        max_position_embeddings=40, bos_token_id=0, eos_token_id=0, **more,
    )  # fmt: skip


def encoder(**more) -> dict:
    return dict(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=28,
        max_position_embeddings=20, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    ) | more  # fmt: skip


def hub(settings: dict, **more) -> dict:
    """The keys of transformers 4: `rope_theta` and `rope_scaling`, `torch_dtype`, no layer types. None takes a key out."""
    old = dict(settings)
    old["torch_dtype"] = old.pop("dtype")
    rope = old.pop("rope_parameters", None)
    if rope is not None and "rope_theta" in rope:
        rope = dict(rope)
        old["rope_theta"] = rope.pop("rope_theta")
        rope.pop("partial_rotary_factor", None)
        old["rope_scaling"] = rope if rope.pop("rope_type") != "default" else None
    old.pop("layer_types", None)
    old["transformers_version"] = "4.44.0"
    return {key: value for key, value in (old | more).items() if value is not ABSENT}


ABSENT = object()


def llama3_hub(settings: dict) -> dict:
    scaling = settings["rope_parameters"]
    return hub(settings, rope_scaling={key: value for key, value in scaling.items() if key != "rope_theta"})


def gemma3_hub(settings: dict) -> dict:
    # As gemma-3-1b-it has it, but for the scaling, which is that of the larger ones.
    rope = settings["rope_parameters"]
    return hub(
        settings,
        rope_theta=rope["full_attention"]["rope_theta"],
        rope_local_base_freq=rope["sliding_attention"]["rope_theta"],
        rope_scaling={"factor": rope["full_attention"]["factor"], "rope_type": "linear"},
        sliding_window_pattern=2,
        cache_implementation="hybrid",
        _sliding_window_pattern=ABSENT,
    )


def modernbert_hub(settings: dict) -> dict:
    rope = settings["rope_parameters"]
    return hub(
        settings,
        global_rope_theta=rope["full_attention"]["rope_theta"],
        local_rope_theta=rope["sliding_attention"]["rope_theta"],
        global_attn_every_n_layers=2,
        position_embedding_type="absolute",
        reference_compile=None,
        repad_logits_with_grad=False,
    )


def neox_hub(settings: dict) -> dict:
    rope = settings["rope_parameters"]
    return hub(
        settings,
        rotary_emb_base=rope["rope_theta"],
        rotary_pct=rope["partial_rotary_factor"],
        rope_theta=ABSENT,
        rope_scaling=ABSENT,
    )


def flan_t5_hub(settings: dict) -> dict:
    absent = ("dense_act_fn", "is_gated_act", "scale_decoder_outputs", "is_decoder", "classifier_dropout")
    return hub(settings, tie_word_embeddings=False, n_positions=512, output_past=True, **dict.fromkeys(absent, ABSENT))


def t5_extra(tensors: dict) -> dict:
    """As in t5-small: a bias of cross-attention that no version reads, and the shared embedding saved again."""
    decoder = "decoder.block.0.layer"
    bias = tensors[f"{decoder}.0.SelfAttention.relative_attention_bias.weight"]
    return tensors | {f"{decoder}.1.EncDecAttention.relative_attention_bias.weight": bias + 1}


def flan_t5_extra(tensors: dict) -> dict:
    again = {f"{side}.embed_tokens.weight": tensors["shared.weight"].clone() for side in ("encoder", "decoder")}
    return tensors | again


def llama_extra(tensors: dict) -> dict:
    """Rotary frequencies, which older checkpoints keep; these are wrong on purpose."""
    layers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.full((2,), 0.5) for layer in range(2)}
    return tensors | layers


def gpt2_hub(tensors: dict) -> dict:
    """As in gpt2 itself: no `transformer.` prefix, and the causal mask of every layer beside its weights."""
    masks = {f"h.{layer}.attn.bias": torch.ones(24, 24).tril()[None, None] for layer in range(2)}
    return {key.removeprefix("transformer."): value for key, value in tensors.items()} | masks


def neox_extra(tensors: dict) -> dict:
    """As in Pythia: masks as booleans, a masked bias, frequencies."""
    found = dict(tensors)
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        found[f"{attention}.bias"] = torch.ones(24, 24, dtype=torch.bool).tril()[None, None]
        found[f"{attention}.masked_bias"] = torch.tensor(-1e4, dtype=torch.float16)
        found[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1, dtype=torch.float16)
    return found


def bart_base(tensors: dict) -> dict:
    """As in bart-base: saved without its head, so without `model.` and without `final_logits_bias`."""
    return {key.removeprefix("model."): value for key, value in tensors.items() if key != "final_logits_bias"}


def position_ids(tensors: dict) -> dict:
    return tensors | {"roberta.embeddings.position_ids": torch.arange(20)[None]}


CASES = [
    Case(
        "llama", "decoder", LlamaConfig(**llama_like(tie_word_embeddings=True)), LlamaForCausalLM, LLAMA_BLOCKS, Q_V,
        seed=1, adapter=CAUSAL, begin=(1,), stop_tokens=(2,), completion=True, old_weights=llama_extra,
        matters=({"rope_parameters": rope(100.0)},),
    ),
    Case(
        "llama3", "decoder",
        LlamaConfig(**llama_like(
            num_attention_heads=2, num_key_value_heads=1, eos_token_id=[2, 4],
            # Wavelengths 6, 20, 63 and 199: kept, between, and divided.
            rope_parameters=rope(
                100.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
            ),
        )),
        LlamaForCausalLM, LLAMA_BLOCKS, Q_V,
        seed=0, adapter=CAUSAL, dtype=torch.bfloat16, begin=(1,), first_word=5, stop_tokens=(2, 4), old_config=llama3_hub,
        matters=({"rope_parameters": rope(100.0)},),
    ),
    Case(
        "mistral", "decoder", MistralConfig(**llama_like(head_dim=6, sliding_window=4)), MistralForCausalLM, LLAMA_BLOCKS, Q_V,
        seed=0, adapter=CAUSAL, saving={"max_shard_size": "8KB"}, begin=(1,), stop_tokens=(2,), matters=({"sliding_window": None},),
    ),
    Case(
        # The window is written and not used, as in Qwen2.5.
        "qwen2", "decoder", Qwen2Config(**llama_like(rms_norm_eps=0.05, tie_word_embeddings=True)), Qwen2ForCausalLM, LLAMA_BLOCKS, Q_V,
        seed=1, adapter=CAUSAL, stop_tokens=(2,),
        old_config=lambda settings: hub(settings, use_sliding_window=False, sliding_window=4, max_window_layers=1),
        matters=({"rms_norm_eps": 1e-6},),
    ),
    Case(
        "qwen3", "decoder",
        Qwen3Config(**llama_like(head_dim=6, use_sliding_window=True, sliding_window=3, max_window_layers=1)),
        Qwen3ForCausalLM, LLAMA_BLOCKS, Q_V,
        seed=1, adapter=CAUSAL | {"use_rslora": True}, stop_tokens=(2,), matters=({"layer_types": ["full_attention"] * 2},),
    ),
    Case(
        "gemma2", "decoder",
        Gemma2Config(**llama_like(
            hidden_size=20, head_dim=6, query_pre_attn_scalar=3, sliding_window=4, attn_logit_softcapping=1.5,
            final_logit_softcapping=1.0, bos_token_id=2, eos_token_id=1,
        )),
        Gemma2ForCausalLM, LLAMA_BLOCKS, Q_V,
        seed=5, adapter=CAUSAL, begin=(2,), stop_tokens=(1,), stop_boost=2.0, embedding_scale=0.12, zero_centered_norms=True,
        matters=(
            {"attn_logit_softcapping": None}, {"final_logit_softcapping": None}, {"query_pre_attn_scalar": 6}, {"sliding_window": 64},
        ),
    ),
    Case(
        "gemma3", "decoder",
        Gemma3TextConfig(**llama_like(
            hidden_size=20, num_key_value_heads=1, head_dim=6, query_pre_attn_scalar=3, sliding_window=4,
            layer_types=["sliding_attention", "full_attention"], bos_token_id=2, eos_token_id=[1, 3],
            rope_parameters=ropes(full=rope(500.0, rope_type="linear", factor=8.0), sliding=rope(30.0)),
        )),
        Gemma3ForCausalLM, LLAMA_BLOCKS, Q_V,
        seed=1, adapter=CAUSAL, begin=(2,), first_word=4, stop_tokens=(1, 3), embedding_scale=0.12, zero_centered_norms=True, old_config=gemma3_hub,
        matters=(
            {"rope_parameters": ropes(full=rope(500.0, rope_type="linear", factor=8.0), sliding=rope(500.0))},
            {"rope_parameters": ropes(full=rope(500.0), sliding=rope(30.0))},
            {"query_pre_attn_scalar": 6},
            {"sliding_window": 64},
        ),
    ),
    Case(
        "phi3", "decoder",
        Phi3Config(**llama_like(
            num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, sliding_window=5,
            rope_parameters=rope(50.0, partial_rotary_factor=0.5),
        )),
        Phi3ForCausalLM, LLAMA_BLOCKS, ["qkv_proj"],
        adapter=CAUSAL, begin=(1,), stop_tokens=(2,),
        matters=(
            {"sliding_window": None}, {"rope_parameters": rope(50.0, partial_rotary_factor=1.0)},
        ),
    ),
    Case(
        "gpt2", "decoder",
        GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_inner=28, n_positions=24, bos_token_id=0, eos_token_id=0),
        GPT2LMHeadModel, ("h", "ln_f"), ["c_attn"],
        seed=0, adapter=CAUSAL | {"fan_in_fan_out": True}, first_word=1, stop_tokens=(0,), old_weights=gpt2_hub,
    ),
    Case(
        "neox", "decoder", neox(rope_parameters=rope(10000.0, partial_rotary_factor=0.25)),
        GPTNeoXForCausalLM, NEOX_BLOCKS, ["query_key_value"],
        adapter=CAUSAL, dtype=torch.float16, first_word=1, stop_tokens=(0,), old_config=neox_hub, old_weights=neox_extra,
        matters=({"use_parallel_residual": False}, {"rope_parameters": rope(10000.0, partial_rotary_factor=0.5)}),
    ),
    Case(
        "neox-sequential", "decoder",
        neox(
            use_parallel_residual=False, hidden_act="gelu_new",
            rope_parameters=rope(30.0, partial_rotary_factor=0.75),
        ),
        GPTNeoXForCausalLM, NEOX_BLOCKS, ["query_key_value"],
        adapter=CAUSAL, first_word=1, stop_tokens=(0,),
        matters=({"use_parallel_residual": True},),
    ),
    Case(
        "t5", "encoder-decoder", T5Config(**t5()), T5ForConditionalGeneration, T5_BLOCKS, ["q", "v"],
        seed=62, adapter=SEQ_2_SEQ, end=(1,), stop_tokens=(1,), stop_boost=2.0, weight_scale=1.7, start=True, old_weights=t5_extra,
        matters=({"relative_attention_max_distance": 128}, {"scale_decoder_outputs": False}),
    ),
    Case(
        "flan-t5", "encoder-decoder",
        T5Config(**t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1)),
        T5ForConditionalGeneration, T5_BLOCKS, ["q", "v"],
        seed=1, adapter=SEQ_2_SEQ, end=(1,), stop_tokens=(1,), finish=untie, old_config=flan_t5_hub, old_weights=flan_t5_extra,
        matters=({"scale_decoder_outputs": True},),
    ),
    Case(
        "mt5", "encoder-decoder", MT5Config(**t5(feed_forward_proj="gated-gelu", num_decoder_layers=1)),
        MT5ForConditionalGeneration, T5_BLOCKS, ["q", "v"],
        adapter=SEQ_2_SEQ, end=(1,), stop_tokens=(1,), finish=untie,
    ),
    Case(
        "bart", "encoder-decoder", bart(), BartForConditionalGeneration, BART_BLOCKS, Q_V,
        seed=8, adapter=SEQ_2_SEQ, begin=(0,), end=(2,), pad=1, pads=("right",), stop_tokens=(2,), stop_boost=2.0,
        generation={"forced_bos_token_id": 0},
    ),
    Case(
        "bart-controls", "encoder-decoder", bart(encoder_layers=1, decoder_layers=1, scale_embedding=True), BartForConditionalGeneration, BART_BLOCKS, Q_V,
        seed=1, begin=(0,), end=(2,), pad=1, stop_tokens=(2,), stop_boost=2.0, old_weights=bart_base, controls_only=True,
        generation={"forced_bos_token_id": 0, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    ),
    Case(
        "roberta", "encoder", RobertaConfig(**encoder()), RobertaModel, ("encoder.layer", "pooler"), ["query", "value"],
        adapter=FEATURES, begin=(0,), end=(2,), pad=1,
    ),
    Case(
        "xlm-roberta", "encoder", XLMRobertaConfig(**encoder(layer_norm_eps=1e-5)), XLMRobertaForMaskedLM, ("encoder.layer",),
        ["query", "value"], adapted=XLMRobertaForSequenceClassification, classifies=True,
        adapter={"task_type": "SEQ_CLS"}, begin=(0,), end=(2,), pad=1, old_weights=position_ids,
    ),
    Case(
        "distilbert", "encoder",
        DistilBertConfig(vocab_size=VOCAB, dim=16, n_layers=2, n_heads=4, hidden_dim=28, max_position_embeddings=16),
        DistilBertForMaskedLM, ("transformer.layer",), ["q_lin", "v_lin"],
        adapted=DistilBertForSequenceClassification, classifies=True,
        adapter={"task_type": "SEQ_CLS", "modules_to_save": ["pre_classifier", "classifier"]},
        begin=(1,), end=(2,), pads=("right",),
    ),
    Case(
        "modernbert", "encoder",
        ModernBertConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, max_position_embeddings=32,
            layer_types=["full_attention", "sliding_attention", "full_attention"], local_attention=6,
            pad_token_id=0, bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2,
            rope_parameters=ropes(full=rope(900.0), sliding=rope(20.0)),
        ),
        ModernBertForMaskedLM, ("layers", "final_norm"), ["Wqkv"],
        adapted=ModernBertModel, adapter=FEATURES, begin=(1,), end=(2,), old_config=modernbert_hub,
        matters=({"local_attention": 8}, {"rope_parameters": ropes(full=rope(900.0), sliding=rope(900.0))}),
    ),
]  # fmt: skip
