"""Makes `tests/goldens/data/blip`: a tiny captioner with settings that few checkpoints have, and what it must compute.

As in `families.py`: files are written by transformers and PEFT, random numbers are numpy's, every output is those
libraries' own in f64 under the oracle's `exact()`, and merges are `language_oracle.py`'s. As there, a model that would be a
weak golden is refused: captions won by a hair, or all alike, or all ended, or none.

    python tests/goldens/blip.py [--out FOLDER] [--search]
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import shutil

import numpy as np
import torch
import transformers
from generate import normal, rng, rounded, tidy, write_json, write_model
from language_oracle import (
    Deltas,
    Options,
    Task,
    exact,
    merge,
    modules_in_order,
    own_caption,
    patched,
    peft_deltas,
    shifted,
)
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from vit import write

HERE = pathlib.Path(__file__).resolve().parent
SEED = 0
SAMPLES, MAX_NEW_TOKENS, ENDS = 4, 12, 0.8
SCALES = {
    "word_embeddings": 0.3, "bert.embeddings.position": 2.0,
    "crossattention.output.dense": 0.7, "crossattention.self.value": 1.4, "self.query": 2.8, "self.key": 2.8,
}  # fmt: skip
LEAST_LEAD = 2e-4
"""Of a choice, as a part of the largest score; f32 moves scores by some 1e-6."""
WORDS = "a the red blue small large round dog cat house tree boat on under near with two three light dark ##s ##er".split()
# Not BERT's order, so that no number of a config is where one would guess it.
SPECIAL = ["[UNK]", "[PAD]", "[SEP]", "[CLS]", "[MASK]"]
VOCABULARY = [*SPECIAL, *WORDS, "[DEC]", "[ENC]"]
UNKNOWN, PAD, SEP, CLS = (VOCABULARY.index(token) for token in SPECIAL[:4])
DEC = VOCABULARY.index("[DEC]")
ADAPTERS = {
    "a": dict(r=2, lora_alpha=3, target_modules=["self.query", "self.value", "mlp.fc1"]),
    # Everything that PEFT finds by these names, `cls.predictions.transform.dense` too.
    "b": dict(
        r=3, lora_alpha=4, target_modules=["qkv", "projection", "fc1", "fc2", "query", "key", "value", "dense"],
        rank_pattern={"encoder.layer.1.crossattention.self.key": 1}, use_rslora=True,
    ),
}  # fmt: skip
CAPTIONS = {"a": [None] * SAMPLES, "b": ["a small red dog near two trees", "the cat", "three boats under light", None]}
"""By task and picture the caption that is given; where there is none, the adapter writes it."""
BEGINS = "the small"
"""How a caption is to begin that is written on from there."""


def captioner() -> BlipForConditionalGeneration:
    """Text narrower than vision, two kinds of activation, eps that show, a picture whose last two rows no patch covers."""
    return BlipForConditionalGeneration(
        BlipConfig(
            text_config=dict(
                vocab_size=len(VOCABULARY), hidden_size=20, encoder_hidden_size=24, intermediate_size=28,
                num_hidden_layers=2, num_attention_heads=5, hidden_act="gelu_new", layer_norm_eps=1e-3,
                max_position_embeddings=24, bos_token_id=DEC, eos_token_id=CLS, sep_token_id=SEP, pad_token_id=PAD,
            ),
            vision_config=dict(
                hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=3,
                hidden_act="quick_gelu", layer_norm_eps=1e-2, image_size=20, patch_size=6,
            ),
            projection_dim=8, image_text_hidden_size=16, attn_implementation="eager",
        )
    )  # fmt: skip


def fill(model: nn.Module, seed: int) -> nn.Module:
    """Weights under which attention is not uniform, positions and norms matter and a picture decides what is written."""
    draw = rng(f"blip/{seed}")
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key.lower():
                value.copy_(normal(draw, value.shape, 0.2, 1.0 if key.endswith("weight") else 0.0))
            elif key.endswith("bias"):
                value.copy_(normal(draw, value.shape, 0.2))
            elif value.dim() == 3:
                value.copy_(normal(draw, value.shape, 0.7))
            else:
                # As large as makes the layer's outputs as large as its inputs, and some more; the decoder's are such
                # that a caption's next word hangs on the words before it and not on the picture alone.
                scale = next((scale for part, scale in SCALES.items() if part in key), 1.4)
                rows = "bert.embeddings" in key
                value.copy_(normal(draw, value.shape, scale if rows else scale / value[0].numel() ** 0.5))
        # So that some captions end.
        model.text_decoder.cls.predictions.bias[SEP] += ENDS
    return model.eval()


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordPiece({token: at for at, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    made.add_special_tokens([*SPECIAL, "[DEC]", "[ENC]"])
    return made


def picture(name: str) -> Image.Image:
    """Coloured squares under a slope, all of integers; neither the size nor the shape that the model reads."""
    rough = rng(f"blip/{name}").integers(0, 200, (4, 5, 3))
    y, x = np.mgrid[:28, :35]
    return Image.fromarray((np.kron(rough, np.ones((7, 7, 1), int)) + ((x + 2 * y) % 56)[..., None]).astype(np.uint8))


def processor() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": 20, "width": 20}, image_mean=[0.5, 0.45, 0.4], image_std=[0.3, 0.27, 0.25])


def pixels(task: str) -> torch.Tensor:
    """(samples, 3, 20, 20), as the model reads a task's pictures."""
    pictures = [picture(f"{task}/{at}") for at in range(SAMPLES)]
    return processor()(pictures, return_tensors="pt")["pixel_values"]


def opened(base: pathlib.Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(base, attn_implementation="eager").eval()


def write_base(model: nn.Module, folder: pathlib.Path) -> None:
    write_model(model, folder)
    processor().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), unk_token="[UNK]", pad_token="[PAD]", sep_token="[SEP]", cls_token="[CLS]",
        mask_token="[MASK]", bos_token="[DEC]", model_max_length=24,
    ).save_pretrained(folder)  # fmt: skip
    tidy(folder)


def write_hub(base: pathlib.Path, folder: pathlib.Path) -> None:
    """The same base as the hub's checkpoints have it: the tied head stored as well, positions as whole numbers."""
    folder.mkdir()
    shutil.copy(base / "config.json", folder)
    tensors = {key: value.clone() for key, value in opened(base).state_dict().items()}
    tensors["text_decoder.bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_adapter(base: pathlib.Path, folder: pathlib.Path, seed: int) -> None:
    name = folder.name
    peft = get_peft_model(opened(base), LoraConfig(**ADAPTERS[name])).eval()
    draw = rng(f"blip/{seed}/{name}")
    with torch.no_grad():
        for key, value in sorted(peft.named_parameters()):
            if "lora_A" in key:
                value.copy_(normal(draw, value.shape, value.shape[1] ** -0.5))
            elif "lora_B" in key:
                value.copy_(normal(draw, value.shape, 0.3))
    peft.save_pretrained(folder)
    tidy(folder)
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "blip/base"}, indent=1, sort_keys=True) + "\n"
    )


def write_samples(folder: pathlib.Path, task: str) -> None:
    folder.mkdir(parents=True)
    lines = []
    for at, caption in enumerate(CAPTIONS[task]):
        picture(f"{task}/{at}").save(folder / f"{at}.png")
        if caption:
            lines.append(json.dumps({"file_name": f"{at}.png", "text": caption}) + "\n")
    if lines:
        (folder / "metadata.jsonl").write_text("".join(lines))


def content(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False).ids


@torch.no_grad()
def outputs(model: nn.Module, deltas: Deltas, given: torch.Tensor, ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """What the model with the deltas computes, each picture with its own ids.

    `image.<k>` (samples, tokens, width): what the first layer of the vision tower reads, what each layer gives, and behind
    the last norm; `text.<k>` (ids of all samples, width): the same of the decoder, whose layers are normed themselves;
    `logits` (ids of all samples, words).
    """
    vision, text = model.vision_model, model.text_decoder.bert
    watched = {"image": [*vision.encoder.layers, vision.post_layernorm], "text": [*text.encoder.layer]}
    found: dict[str, list[torch.Tensor]] = {}

    def keep(key: str, value) -> None:
        found.setdefault(key, []).append((value[0] if isinstance(value, tuple) else value)[0])

    hooks = []
    for stream, modules in watched.items():
        hooks.append(modules[0].register_forward_pre_hook(lambda _m, args, s=stream: keep(f"{s}.0", args)))
        for at, module in enumerate(modules):
            hooks.append(module.register_forward_hook(lambda _m, _a, out, k=f"{stream}.{at + 1}": keep(k, out)))
    with patched(model, deltas), exact():
        for one, tokens in zip(given, ids):
            # `post_layernorm` runs once more on a pooled row, which nothing reads.
            norms = len(found.get("image.3", []))
            out = model(pixel_values=one[None].double(), input_ids=torch.tensor([tokens]))
            del found["image.3"][norms + 1 :]
            keep("logits", out.logits)
    for hook in hooks:
        hook.remove()
    return {key: (torch.cat if key[:5] != "image" else torch.stack)(rows) for key, rows in found.items()}


class Case:
    """A base with both adapters in a folder, and what is computed of them."""

    def __init__(self, out: pathlib.Path, seed: int):
        self.out = out
        write_base(fill(captioner(), seed), out / "base")
        self.model = opened(out / "base")
        self.exactly = opened(out / "base").double()
        self.pixels = {task: pixels(task) for task in ADAPTERS}
        self.deltas, self.tasks, self.ids, self.leads = {"base": {}}, [], {}, []
        for task in ADAPTERS:
            write_adapter(out / "base", out / task, seed)
            write_samples(out / f"{task}.samples", task)
            self.deltas[task] = peft_deltas(opened(out / "base").double(), out / task)
        for task, captions in CAPTIONS.items():
            written = self.captions(self.deltas[task], task)
            answers = [[*content(text), SEP] if text else own for text, own in zip(captions, written)]
            self.ids[task] = [shifted(answer, DEC) for answer in answers]
            samples = [
                {"pixel_values": one.tolist(), "input_ids": ids} for one, ids in zip(self.pixels[task], self.ids[task])
            ]
            self.tasks.append(Task(task, self.deltas[task], samples))
        self.demand_own()

    def captions(self, deltas: Deltas, task: str, begins: list[int] = ()) -> list[list[int]]:
        found = [own_caption(self.exactly, deltas, one, MAX_NEW_TOKENS, begins) for one in self.pixels[task].double()]
        self.leads += [lead for _, lead in found]
        return [ids for ids, _ in found]

    def write(self) -> None:
        merged, deviation = {}, {}
        for variant, options in {"sweep": Options(), "iterate1": Options(schedule="iterate", max_iter=1)}.items():
            deltas, rough = merge(self.exactly, self.tasks, options), merge(self.model, self.tasks, options)
            deviation[variant] = max(float((rough[k] - delta).norm() / delta.norm()) for k, delta in deltas.items())
            merged |= {f"{variant}.{name}": delta for name, delta in deltas.items()}
            self.deltas.setdefault(variant, deltas)
        write(merged, self.out / "merged.safetensors")
        del self.deltas["iterate1"]

        expected = {f"pixels.{task}": value for task, value in self.pixels.items()}
        captions = {}
        for who, deltas in self.deltas.items():
            found = outputs(self.exactly, deltas, self.pixels["b"], self.ids["b"])
            expected |= found if who == "base" else {}
            expected[f"logits.{who}"] = found["logits"]
            captions[who] = {task: self.captions(deltas, task) for task in ADAPTERS}
        del expected["logits"]
        begun = {who: self.captions(deltas, "a", content(BEGINS)) for who, deltas in self.deltas.items()}
        write(expected, self.out / "expected.safetensors")
        self.demand(captions, expected, deviation)
        modules = modules_in_order(self.exactly, sorted(self.tasks[1].deltas), self.tasks[1].inputs[0])
        facts = {
            "modules": modules,
            "decoder_ids": self.ids,
            "max_new_tokens": MAX_NEW_TOKENS,
            "captions": captions,
            "begins": {"text": BEGINS, "ids": content(BEGINS), "captions": begun},
            "least_lead": min(self.leads),
            "f32_deviation": deviation,
        }
        write_json(self.out / "facts.json", rounded(facts))

    def demand_leads(self) -> None:
        assert min(self.leads) > LEAST_LEAD, f"a choice is won by {min(self.leads):.1e}"

    def demand_own(self) -> None:
        """Before anything is merged: that there is something to merge with."""
        self.demand_leads()
        own = [ids for task, captions in CAPTIONS.items() for text, ids in zip(captions, self.ids[task]) if not text]
        assert min(map(len, own)) > 1, "an adapter's own caption ends at once"
        assert sum(len(set(ids)) > 2 for ids in own) > 2, "own captions say one word again and again"

    def demand(self, captions: dict, expected: dict[str, torch.Tensor], deviation: dict[str, float]) -> None:
        """That the captions and numbers can tell a wrong program from a right one."""
        everything = [ids for by_task in captions.values() for found in by_task.values() for ids in found]
        self.demand_leads()
        long = [len(set(ids)) for ids in everything if len(ids) > 4]
        assert sum(long) / len(long) > 3, f"long captions have {sum(long) / len(long):.1f} different words"
        ended = sum(ids[-1] == SEP for ids in everything)
        assert 0.1 < ended / len(everything) < 0.9, f"{ended} of {len(everything)} captions end"
        assert max(map(len, everything)) == MAX_NEW_TOKENS
        assert any(3 < len(ids) < MAX_NEW_TOKENS for ids in everything), "captions end at once or not at all"
        for who, by_task in captions.items():
            for task, found in by_task.items():
                assert len(set(map(tuple, found))) > 2, f"{who} writes the same of the pictures of {task}"
        for task in ADAPTERS:
            assert all(captions["base"][task][at] != captions[task][task][at] for at in range(SAMPLES)), task
        for one, other in itertools.combinations(self.deltas, 2):
            moved = (expected[f"logits.{one}"] - expected[f"logits.{other}"]).abs().max()
            assert moved > 0.01 * expected[f"logits.{one}"].abs().max(), (one, other)
        assert max(deviation.values()) < 5e-5, deviation


def generate(out: pathlib.Path, seed: int = SEED) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    case = Case(out, seed)
    case.write()
    write_hub(out / "base", out / "base-hub")


def search(out: pathlib.Path) -> None:
    for seed in range(SEED, SEED + 1000):
        try:
            generate(out, seed)
        except AssertionError as reason:
            print(f"{seed}: {reason}", flush=True)
        else:
            print(f"SEED = {seed}")
            return


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "data" / "blip")
    arguments.add_argument("--search", action="store_true")
    given = arguments.parse_args()
    (search if given.search else generate)(given.out)
