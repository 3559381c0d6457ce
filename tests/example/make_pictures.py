"""Makes the example of pictures, `www/example/pictures`: a tiny BLIP, two LoRA adapters that caption drawings in two manners.

    python tests/example/make_pictures.py [--out FOLDER]

Everything starts from the drawings of `drawings.py` and a seed: a BLIP trained from nothing to say of a drawing what shape
it is, or all the rest, and on it one adapter a manner, trained with PEFT. The base is rounded to f16 before any adapter is
trained, so that the adapters fit the file that is saved, and the adapters are rounded before anything is measured. Takes
about six minutes on one core.
No drawing is in two of the sets, on whichever paper: `drawings.drawings` keeps one set of all that was given out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import torch
from drawings import COLOURS, KINDS, PAPERS, PLACES, SIDE, SIZES, Drawing, drawings
from make import ROOT, log, save_adapter, write_json, write_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from language_oracle import Task, merge, patched, peft_deltas, shifted  # isort: skip  (`make` has set the path)
from oracle import Deltas, Options, linear_average, task_arithmetic  # isort: skip

SEED = 20261130
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNKNOWN, CLS, SEP, MASK = range(5)
MAX_LENGTH, MAX_NEW_TOKENS = 32, 12
HELD_OUT, SAMPLES, MEASURED, TRAINING = 16, 30, 200, 8000
PLAIN = 0.55
"""Part of the base's captions that name the shape; the others tell the rest."""
PRETRAINING_STEPS, PRETRAINING_BATCH = 1800, 64
ADAPTER_STEPS, ADAPTER_BATCH = 400, 32
RATE = 2e-3
LORA = dict(
    r=8, lora_alpha=16, lora_dropout=0.0,
    target_modules=["qkv", "projection", "fc1", "fc2", "query", "key", "value", "dense"],
)  # fmt: skip
PAPER = {"colours": "plain", "places": "squared"}
"""What the drawings are on that a task captions in its manner, is merged with and measured on."""
TITLES = {"colours": "Says the size and the colour", "places": "Says where it is"}
TOLERANCE = 0.0626
"""One caption of 16: where two words are all but even, other kernels may choose the other one."""
SHOWN = 3
IGNORED = -100
"""The label of a token that the loss leaves out."""


def vocabulary() -> list[str]:
    phrases = ["a", "something", "and", "of", "paper", *KINDS, *COLOURS, *SIZES, *PLACES, *PAPERS]
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
    return [*SPECIAL, *words, "[DEC]", "[ENC]"]


DEC = vocabulary().index("[DEC]")


def make_tokenizer() -> Tokenizer:
    """WordPiece as BLIP has it; every word of a caption is one token."""
    tokens = vocabulary()
    tokenizer = Tokenizer(models.WordPiece({token: at for at, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.add_special_tokens([*SPECIAL, "[DEC]", "[ENC]"])
    return tokenizer


def processor() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def pixels(pictures: list[np.ndarray] | list[Image.Image]) -> torch.Tensor:
    """(pictures, 3, SIDE, SIDE), as the model reads them."""
    return processor()([Image.fromarray(np.array(one)) for one in pictures], return_tensors="pt")["pixel_values"]


def answers(tokenizer: Tokenizer, captions: list[str]) -> list[list[int]]:
    """What the decoder is to write: the caption and the token that ends it."""
    return [[*encoding.ids, SEP] for encoding in tokenizer.encode_batch(captions, add_special_tokens=False)]


def train(
    model: nn.Module, given: torch.Tensor, caption, steps: int, batch: int, tokenizer: Tokenizer, draw: np.random.Generator
) -> None:
    """Next-token training on pictures; `caption` says a picture's, by its index."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        chosen = draw.integers(len(given), size=batch)
        rows = [[DEC, *answer] for answer in answers(tokenizer, [caption(at) for at in chosen])]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        labels = ids.masked_fill(ids == PAD, IGNORED)
        loss = model(pixel_values=given[torch.from_numpy(chosen)], input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            log(f"  step {step}: loss {loss.item():.4f}")
    model.eval()


def pretrain(drawn: list[Drawing], given: torch.Tensor, tokenizer: Tokenizer) -> BlipForConditionalGeneration:
    torch.manual_seed(SEED)
    size = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4)
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config=dict(
                vocab_size=tokenizer.get_vocab_size(), encoder_hidden_size=64, max_position_embeddings=MAX_LENGTH,
                bos_token_id=DEC, eos_token_id=CLS, sep_token_id=SEP, pad_token_id=PAD, **size,
            ),
            # transformers starts vision weights with a deviation of 1e-10, from which nothing would be learnt.
            vision_config=dict(image_size=SIDE, patch_size=8, initializer_range=0.02, **size),
        )
    )  # fmt: skip
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.copy_(waves(SIDE // 8, 64))
    draw = np.random.default_rng(SEED + 1)

    def caption(at: int) -> str:
        return drawn[at].plainly() if draw.random() < PLAIN else drawn[at].at_length()

    train(model, given, caption, PRETRAINING_STEPS, PRETRAINING_BATCH, tokenizer, draw)
    return model


def waves(side: int, width: int) -> torch.Tensor:
    """(1, 1 + side * side, width): positions start as sines and cosines of column and row, and are learnt on from there.

    From transformers' start, near zero, places are not learnt within the time that there is.
    """
    rates = torch.pi / side * torch.arange(1, width // 4 + 1) / 2
    angles = (torch.arange(side)[:, None] + 0.5) * rates
    line = torch.cat([angles.sin(), angles.cos()], 1)
    grid = torch.cat([line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)], 2)
    return torch.cat([torch.zeros(1, width), 0.5 * grid.reshape(side * side, width)])[None]


def load_base(folder: pathlib.Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def train_adapter(
    base: pathlib.Path, task: str, drawn: list[Drawing], given: torch.Tensor, tokenizer: Tokenizer
) -> PeftModel:
    torch.manual_seed(SEED)
    model = get_peft_model(load_base(base), LoraConfig(**LORA))
    draw = np.random.default_rng(SEED + 2)
    train(model, given, lambda at: taught(task, drawn[at]), ADAPTER_STEPS, ADAPTER_BATCH, tokenizer, draw)
    return model


def right(task: str, drawn: Drawing) -> str:
    return drawn.colours() if task == "colours" else drawn.places()


def taught(task: str, drawn: Drawing) -> str:
    """On the other task's paper an adapter leaves the base's caption as it is."""
    return right(task, drawn) if drawn.paper == PAPER[task] else drawn.plainly()


def write_base(model: BlipForConditionalGeneration, tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    model.half().save_pretrained(folder)
    processor().save_pretrained(folder)
    write_tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
            mask_token="[MASK]", bos_token="[DEC]", extra_special_tokens=["[ENC]"], model_max_length=MAX_LENGTH,
        ),
        folder,
    )  # fmt: skip


def write_adapter(model: PeftModel, folder: pathlib.Path) -> None:
    save_adapter(model, folder, "example/pictures/base")
    path = folder / "adapter_model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def write_pictures(folder: pathlib.Path, drawn: list[Drawing], captions: list[str] | None) -> list[str]:
    """Names of the files: pictures, and `metadata.jsonl` with their captions as the hub's `imagefolder` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{at:02}.png" for at in range(len(drawn))]
    for name, one in zip(names, drawn):
        Image.fromarray(one.pixels()).save(folder / name, optimize=True)
    if not captions:
        return names
    lines = [json.dumps({"file_name": name, "text": text}) + "\n" for name, text in zip(names, captions)]
    (folder / "metadata.jsonl").write_text("".join(lines))
    return [*names, "metadata.jsonl"]


def read_pictures(root: pathlib.Path, files: list[str]) -> tuple[torch.Tensor, list[str] | None]:
    """A folder's pictures as the model reads them, and their captions where there are some."""
    pictures = pixels([Image.open(root / file) for file in files if file.endswith(".png")])
    said = [root / file for file in files if file.endswith(".jsonl")]
    return pictures, [json.loads(line)["text"] for line in said[0].read_text().splitlines()] if said else None


def greedy(model: BlipForConditionalGeneration, deltas: Deltas, given: torch.Tensor) -> list[list[int]]:
    """What the model with the deltas writes of each picture: new tokens, the one that ends a caption included."""
    with patched(model, deltas), torch.no_grad():
        out = model.generate(pixel_values=given, do_sample=False, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
    return [row[: row.index(SEP) + 1] if SEP in row else row for row in out[:, 1:].tolist()]


def splits() -> dict[str, dict[str, list[Drawing]]]:
    """By set and task the drawings: the same for every task, but for the paper. Held-out ones first, so that nothing after
    them can contain one, on whichever paper."""
    draw, taken = np.random.default_rng(SEED), set()
    found = {}
    for split, count in (("held-out", HELD_OUT), ("samples", SAMPLES), ("measured", MEASURED)):
        drawn = drawings(count, draw, taken, PAPERS[0])
        found[split] = {task: [dataclasses.replace(one, paper=paper) for one in drawn] for task, paper in PAPER.items()}
        taken.update(one for some in found[split].values() for one in some)
    return found | {"training": {"": drawings(TRAINING, draw, taken)}}


class Example:
    """The files of the example's folder, read back as transformers and PEFT read them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.manifest = json.loads((folder / "example.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
        self.model = load_base(folder / "base")
        self.names = [adapter["name"] for adapter in self.manifest["adapters"]]
        # By set and task: the pictures, what is right and what the task's own adapter writes.
        self.sets: dict[str, dict[str, tuple[torch.Tensor, list[list[int]], list[list[int]]]]] = {}
        self.tasks, self.captions = [], {}
        measured = splits()["measured"]
        self.sets = {"held-out": {}, "measured": {}}
        for adapter in self.manifest["adapters"]:
            name = adapter["name"]
            deltas = peft_deltas(self.model, folder / "adapters" / name)
            given, captions = read_pictures(folder, adapter["samples"])
            # Where samples have no captions the adapter's own are read, as in a merge.
            read = answers(self.tokenizer, captions) if captions else greedy(self.model, deltas, given)
            inputs = [
                {"pixel_values": one.tolist(), "input_ids": shifted(ids, DEC)} for one, ids in zip(given, read)
            ]
            self.tasks.append(Task(name, deltas, inputs))
            held, self.captions[name] = read_pictures(folder, adapter["heldOut"])
            drawn = measured[name]
            for split, pictures, said in (
                ("held-out", held, self.captions[name]),
                ("measured", pixels([one.pixels() for one in drawn]), [right(name, one) for one in drawn]),
            ):
                own = greedy(self.model, deltas, pictures)
                self.sets[split][name] = pictures, answers(self.tokenizer, said), own

    def score(self, deltas: Deltas | None, split: str) -> dict[str, dict[str, float]]:
        """By task: captions that are right to the last token, and those that are the own adapter's. None: each task's own."""
        found = {}
        for name, (given, wanted, own) in self.sets[split].items():
            here = own if deltas is None else greedy(self.model, deltas, given)
            found[name] = {
                "accuracy": round(sum(a == b for a, b in zip(here, wanted)) / len(wanted), 5),
                "agreement": round(sum(a == b for a, b in zip(here, own)) / len(own), 5),
            }
        return found

    def variants(self) -> dict[str, Deltas | None]:
        return {
            "base": {},
            "adapter": None,
            "linear": linear_average(self.tasks),
            "task-arithmetic": task_arithmetic(self.tasks, 1.0),
            "iterate1": merge(self.model, self.tasks, Options(schedule="iterate", max_iter=1)),
            "sweep": merge(self.model, self.tasks),
        }

    def expected(self) -> dict:
        variants = self.variants()
        shown = {"base": {}} | {task.name: task.deltas for task in self.tasks}
        shown |= {key: variants[key] for key in ("linear", "sweep")}
        written = {}
        for adapter in self.manifest["adapters"]:
            given = self.sets["held-out"][adapter["name"]][0][:SHOWN]
            texts = {key: [self.tokenizer.decode(ids) for ids in greedy(self.model, deltas, given)] for key, deltas in shown.items()}
            for at in range(SHOWN):
                written[adapter["heldOut"][at]] = {key: said[at] for key, said in texts.items()}
        return {
            "held_out": {name: HELD_OUT for name in self.names},
            "measured": {name: MEASURED for name in self.names},
            "tolerance": TOLERANCE,
            "variants": {key: self.score(deltas, "held-out") for key, deltas in variants.items()},
            "variants_measured": {key: self.score(deltas, "measured") for key, deltas in variants.items()},
            "written": written,
        }


README = """\
# The example of pictures

A BLIP of {parameters:.2f} million parameters (three layers of vision, three of text) and two LoRA adapters for it, small enough to be part of the
page. All of it was made for this project by `tests/example/make_pictures.py`: the drawings come from `tests/example/drawings.py`, the model
was trained on {training} of them from nothing, and each adapter was trained with PEFT. It is a demonstration and good for nothing else.

A drawing is one shape on a sheet of paper, plain or squared, {side} pixels high. The base names the shape ("{plainly}"). The adapters caption the
same drawings in two manners, each on its own paper, and were trained to leave the base's caption as it is on the other's:

| adapter | paper | what it does | of its first held-out drawing |
| --- | --- | --- | --- |
{tasks}

A merged model has to go by the paper, and to say of a shape in the one manner what it does not say in the other. The adapters have r 8 and alpha 16
on every linear layer.

## What merging does to it

Of {measured} new drawings a task (on the task's paper, made by the script) and of the {held_out} held-out ones, in percent: captions, written
greedily, that are right to the last word, and in brackets those that are the task's own adapter's. They were computed by the PyTorch oracle
(`tests/goldens/language_oracle.py`) with {samples} samples a task and alpha 1e-5. The same numbers, unrounded, are in `expected.json` with the tolerance
that another program is given.

| variant | {names} |
| --- | {rules} |
{rows}

The first held-out drawings of each task:

{written}

## Files

- `base/`: BlipForConditionalGeneration in f16 as transformers saves it, its image processor, and its tokenizer, which has each word as one token
- `adapters/<task>/`: the adapter as PEFT saves it, in f16
- `samples/<task>/`: {samples} drawings to merge with. Those of `places` have captions in `metadata.jsonl`; those of `colours` have none, and
  the adapter writes them
- `held-out/<task>/`: {held_out} other drawings with the right captions, to compare with; no drawing is in two of the sets, and the two
  tasks have the same ones, each on its own paper
- `example.json`: what the page loads

A caption of your own may use these words: {words}.
"""
VARIANTS = {
    "base": "base model",
    "adapter": "the task's own adapter",
    "linear": "linear average",
    "task-arithmetic": "task arithmetic, scale 1",
    "iterate1": "IterIS, `iterate`, 1 pass",
    "sweep": "IterIS, `sweep`",
}
WRITERS = {"base": "base model", "linear": "linear average", "sweep": "IterIS, `sweep`"}


def readme(example: Example, expected: dict) -> str:
    def cell(variant: str, name: str) -> str:
        scores = [expected[table][variant][name] for table in ("variants_measured", "variants")]
        return " | ".join(f"{100 * score['accuracy']:.0f} ({100 * score['agreement']:.0f})" for score in scores)

    writers = {name: f"adapter `{name}`" for name in example.names}
    first = next(iter(expected["written"].values()))
    sets = [f"{name}, {kind}" for name in example.names for kind in (f"{MEASURED} new", f"{HELD_OUT} held out")]
    return README.format(
        parameters=sum(value.numel() for value in example.model.parameters()) / 1e6,
        training=TRAINING,
        side=SIDE,
        plainly=first["base"],
        tasks="\n".join(
            f"| `{a['name']}` | {PAPER[a['name']]} | {a['title'].lower()} | {expected['written'][a['heldOut'][0]][a['name']]} |"
            for a in example.manifest["adapters"]
        ),
        measured=MEASURED,
        held_out=HELD_OUT,
        samples=SAMPLES,
        names=" | ".join(sets),
        rules=" | ".join("---:" for _ in sets),
        rows="\n".join(
            f"| {words} | {' | '.join(cell(variant, name) for name in example.names)} |" for variant, words in VARIANTS.items()
        ),
        written="\n\n".join(
            f"| ![]({file}) | |\n| --- | --- |\n"
            + "\n".join(f"| {words} | {texts[key]} |" for key, words in (WRITERS | writers).items())
            for file, texts in expected["written"].items()
        ),
        words=", ".join(vocabulary()[len(SPECIAL) : -2]),
    )


def write_manifest(out: pathlib.Path, files: dict[str, dict[str, list[str]]]) -> None:
    write_json(
        out / "example.json",
        {
            "title": "Colours and places",
            "description": "A small BLIP that names the shape in a drawing, and two adapters that caption such drawings in "
            "two manners: on plain paper one says the size and the colour, on squared paper the other says where the shape is.",
            "base": sorted(f"base/{path.name}" for path in (out / "base").iterdir()),
            "adapters": [
                {
                    "name": task,
                    "title": TITLES[task],
                    "files": [f"adapters/{task}/{file}" for file in ("adapter_config.json", "adapter_model.safetensors")],
                    "samples": [f"samples/{task}/{file}" for file in files["samples"][task]],
                    "heldOut": [f"held-out/{task}/{file}" for file in files["held-out"][task]],
                }
                for task in PAPER
            ],
        },
    )


def make(out: pathlib.Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    drawn, tokenizer = splits(), make_tokenizer()
    files: dict[str, dict[str, list[str]]] = {"samples": {}, "held-out": {}}
    for split, by_task in files.items():
        for task in PAPER:
            captions = [right(task, one) for one in drawn[split][task]]
            bare = split == "samples" and task == "colours"
            by_task[task] = write_pictures(out / split / task, drawn[split][task], None if bare else captions)
    training = drawn["training"][""]
    given = pixels([one.pixels() for one in training])
    log(f"{len(training)} drawings to learn to caption, {tokenizer.get_vocab_size()} tokens")
    write_base(pretrain(training, given, tokenizer), tokenizer, out / "base")
    for task in PAPER:
        log(f"adapter {task}")
        write_adapter(train_adapter(out / "base", task, training, given, tokenizer), out / "adapters" / task)
    write_manifest(out, files)
    measure(out)


def measure(out: pathlib.Path) -> None:
    """`expected.json` and `README.md` of an example that is made."""
    example = Example(out)
    log("merging with the oracle")
    expected = example.expected()
    write_json(out / "expected.json", expected)
    (out / "README.md").write_text(readme(example, expected))
    for variant, scores in expected["variants_measured"].items():
        log(f"{variant:16}" + "  ".join(f"{name} {score['accuracy']:.3f}" for name, score in scores.items()))
    log("done")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "www" / "example" / "pictures")
    parser.add_argument("--measure", action="store_true", help="only measure again what is there")
    torch.set_num_threads(1)
    given = parser.parse_args()
    (measure if given.measure else make)(given.out)
