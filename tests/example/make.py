"""Makes the built-in example, `www/example`: a small BERT, three LoRA adapters that conflict, samples, held-out texts.

    python tests/example/make.py [--out FOLDER]

Everything starts from the sentences of `grammar.py`, a vocabulary and a seed: a BERT trained from nothing to fill
in masked words and to tell the three kinds of text apart, and on it one adapter a task, trained with PEFT. The base is rounded
to f16 before any adapter is trained, so that the adapters fit the file that is saved. Takes some ten minutes on one core.
No text is in both the training and the held-out set: `grammar.texts` keeps one set of all that was given out.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import shutil
import sys
import time

import grammar
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests" / "goldens"))
from oracle import Batch, Deltas, Options, Task, iteris, linear_average, patched, peft_deltas, task_arithmetic  # noqa: E402

SEED = 20260611
PAD, UNKNOWN, CLS, SEP, MASK = range(5)
MAX_LENGTH = 64
PRETRAINING_TEXTS, TRAINING_TEXTS, SAMPLES, HELD_OUT = 6000, 3000, 50, 150
PRETRAINING_STEPS, ADAPTER_STEPS, ADAPTER_RATE = 3000, 600, 1.5e-3
LORA = dict(
    r=8, lora_alpha=16, lora_dropout=0.0,
    target_modules=["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
)  # fmt: skip
TITLES = {
    "reviews": "What a product review thinks",
    "requests": "What a customer asks for",
    "notes": "How soon a note wants an answer",
}


STARTED = time.perf_counter()


def log(message: str) -> None:
    print(f"[{time.perf_counter() - STARTED:6.0f} s] {message}", flush=True)


def make_tokenizer() -> Tokenizer:
    """WordPiece over `vocabulary.txt`, a token a line.

    The vocabulary was learnt once from such texts by the tokenizers library and is kept: its trainer breaks ties by chance,
    and would give another one each time. Every printable character is in it, so that a person's own sentence is spelled
    rather than unknown.
    """
    tokens = (HERE / "vocabulary.txt").read_text().splitlines()
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(tokens[:5])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids, cut to MAX_LENGTH with the last token kept, as transformers does."""
    found = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    return [ids if len(ids) <= MAX_LENGTH else [*ids[: MAX_LENGTH - 1], SEP] for ids in found]


def batches(ids: list[list[int]], targets: list[int], size: int, steps: int, draw: random.Random):
    for _ in range(steps):
        chosen = draw.choices(range(len(ids)), k=size)
        yield Batch.of([ids[i] for i in chosen], pad_id=PAD), torch.tensor([targets[i] for i in chosen])


def scheduled(parameters, rate: float, steps: int):
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)


def pretrain(ids: list[list[int]], kinds: list[int], vocab: int, steps: int) -> BertModel:
    """Masked words from the hidden states, and the kind of text from the pooled vector."""
    torch.manual_seed(SEED)
    draw = random.Random(SEED)
    model = BertModel(
        BertConfig(
            vocab_size=vocab, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
            max_position_embeddings=MAX_LENGTH, pad_token_id=PAD,
        )
    )  # fmt: skip
    words = nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.LayerNorm(128))
    bias = nn.Parameter(torch.zeros(vocab))
    kind = nn.Linear(128, len(grammar.TASKS))
    optimizer, schedule = scheduled([*model.parameters(), *words.parameters(), bias, *kind.parameters()], 1e-3, steps)
    masks = np.random.Generator(np.random.PCG64(SEED))
    model.train()
    for step, (batch, wanted) in enumerate(batches(ids, kinds, 48, steps, draw)):
        original = batch.input_ids
        hide = torch.from_numpy(masks.random(tuple(original.shape))) < 0.18
        hide &= batch.attention_mask.bool() & (original != CLS) & (original != SEP)
        out = model(original.masked_fill(hide, MASK), batch.attention_mask, batch.token_type_ids)
        logits = words(out.last_hidden_state[hide]) @ model.embeddings.word_embeddings.weight.T + bias
        word_loss = nn.functional.cross_entropy(logits, original[hide])
        loss = word_loss + 0.3 * nn.functional.cross_entropy(kind(out.pooler_output), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
            log(f"pretraining step {step}: masked words {word_loss.item():.3f}")
    return model.eval()


def with_head(base: pathlib.Path, labels: list[str]) -> BertForSequenceClassification:
    torch.manual_seed(SEED)
    return BertForSequenceClassification.from_pretrained(
        base,
        dtype=torch.float32,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )


def train_adapter(base: pathlib.Path, ids, targets, labels: list[str], steps: int, rate: float) -> PeftModel:
    model = get_peft_model(with_head(base, labels), LoraConfig(task_type="SEQ_CLS", **LORA))
    optimizer, schedule = scheduled([p for p in model.parameters() if p.requires_grad], rate, steps)
    model.train()
    for step, (batch, wanted) in enumerate(batches(ids, targets, 32, steps, random.Random(SEED))):
        loss = nn.functional.cross_entropy(
            model(batch.input_ids, batch.attention_mask, token_type_ids=batch.token_type_ids).logits, wanted
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            log(f"  step {step}: loss {loss.item():.3f}")
    return model.eval()


def write_json(path: pathlib.Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_base(model: BertModel, tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    model.half().save_pretrained(folder)
    write_tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
            mask_token="[MASK]", model_max_length=MAX_LENGTH,
        ),
        folder,
    )  # fmt: skip


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: pathlib.Path) -> None:
    tokenizer.save_pretrained(folder)
    # The class under the name that every release of transformers knows.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.pop("backend", None)
    write_json(path, settings)


def write_adapter(model: PeftModel, labels: list[str], folder: pathlib.Path) -> None:
    save_adapter(model, folder, "example/base")
    write_json(folder / "labels.json", labels)


def save_adapter(model: PeftModel, folder: pathlib.Path, base: str) -> None:
    """As PEFT saves it, but for what depends on the machine: the model card, the base's path, the order of sets."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text()) | {"base_model_name_or_path": base}
    for key in ("target_modules", "modules_to_save"):
        settings[key] = settings[key] and sorted(settings[key])
    write_json(path, dict(sorted(settings.items())))


class Example:
    """The files of an example folder, read back as transformers and PEFT read them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.manifest = json.loads((folder / "example.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
        self.encoder = BertModel.from_pretrained(folder / "base", dtype=torch.float32).eval()
        self.names = [adapter["name"] for adapter in self.manifest["adapters"]]
        self.models, self.tasks, self.held_out = {}, [], {}
        for adapter in self.manifest["adapters"]:
            name, labels = adapter["name"], adapter["labels"]
            self.models[name] = self.model(name, labels)
            samples = (folder / adapter["samples"]).read_text().splitlines()
            self.tasks.append(
                Task(
                    Batch.of(encode(self.tokenizer, samples), pad_id=PAD),
                    peft_deltas(with_head(folder / "base", labels).eval(), folder / "adapters" / name),
                )
            )
            lines = [json.loads(line) for line in (folder / adapter["heldOut"]).read_text().splitlines()]
            self.held_out[name] = (
                Batch.of(encode(self.tokenizer, [line["text"] for line in lines]), pad_id=PAD),
                torch.tensor([labels.index(line["label"]) for line in lines]),
            )

    def model(self, name: str, labels: list[str]) -> nn.Module:
        """The base with the task's own classifier, without the adapter's deltas."""
        model = with_head(self.folder / "base", labels).eval()
        saved = load_file(self.folder / "adapters" / name / "adapter_model.safetensors")
        model.classifier.weight.data = saved["base_model.model.classifier.weight"]
        model.classifier.bias.data = saved["base_model.model.classifier.bias"]
        return model

    def predictions(self, name: str, deltas: Deltas) -> torch.Tensor:
        model = self.models[name]
        with patched(model.bert, deltas):
            return self.held_out[name][0](model).logits.argmax(1)

    def score(self, deltas: Deltas | None) -> dict[str, dict[str, float]]:
        """By task: accuracy, and agreement with the task's own adapter. None stands for each task's own."""
        found = {}
        for name, task in zip(self.names, self.tasks):
            own = self.predictions(name, task.deltas)
            here = own if deltas is None else self.predictions(name, deltas)
            found[name] = {
                "accuracy": round(float((here == self.held_out[name][1]).double().mean()), 5),
                "agreement": round(float((here == own).double().mean()), 5),
            }
        return found

    def expected(self) -> dict:
        variants = {
            "base": {},
            "adapter": None,
            "linear": linear_average(self.tasks),
            "task-arithmetic": task_arithmetic(self.tasks, 1.0),
            "iterate1": iteris(self.encoder, self.tasks, Options(schedule="iterate", max_iter=1)).deltas,
            "iterate3": iteris(self.encoder, self.tasks, Options(schedule="iterate", max_iter=3)).deltas,
            "sweep": iteris(self.encoder, self.tasks).deltas,
            "sweep-full": iteris(self.encoder, self.tasks, Options(target="full")).deltas,
        }
        return {
            "held_out": {name: len(self.held_out[name][1]) for name in self.names},
            "variants": {key: self.score(deltas) for key, deltas in variants.items()},
        }


README = """\
# The built-in example

A BERT of {parameters:.2f} million parameters and three LoRA adapters for it, small enough to be part of the page. All of it was
made for this project by `tests/example/make.py`: the sentences come from the grammars in `tests/example/grammar.py`, the
tokenizer was made from them, the model was trained on them from nothing (masked words, and which of the three kinds of text
it is), and each adapter was trained with PEFT on one task. It is a demonstration and good for nothing else.

| task | what it tells | labels |
| --- | --- | --- |
{tasks}

The three tasks speak of the same things in the same words, so their adapters pull the same layers in different directions:
r 8, alpha 16, on query, key, value, attention output, intermediate and output of all four layers.

## What merging does to it

Accuracy in percent on the {held_out} held-out texts of each task, computed by the PyTorch oracle (`tests/goldens/oracle.py`) with
{samples} unlabelled samples a task and alpha 1e-5; the same numbers, unrounded, are in `expected.json`, and `tests/peers`
checks that the program gives them.

| variant | {names} |
| --- | {rules} |
{rows}

`iterate` needs several passes here because 16 levels follow one another; the sweep is what it tends to.

## Files

- `base/`: BertModel in f16 as transformers saves it, and its tokenizer
- `adapters/<task>/`: the adapter as PEFT saves it (its classifier is in it), and the names of its labels
- `samples/<task>.txt`: {samples} texts without labels, to merge with
- `held-out/<task>.jsonl`: {held_out} other texts with labels, to compare with; no text is in two of the sets
- `example.json`: what the page loads
"""
VARIANTS = {
    "base": "base model, the task's classifier",
    "adapter": "the task's own adapter",
    "linear": "linear average",
    "task-arithmetic": "task arithmetic, scale 1",
    "iterate1": "IterIS, `iterate`, 1 pass",
    "iterate3": "IterIS, `iterate`, 3 passes",
    "sweep": "IterIS, `sweep`",
    "sweep-full": "IterIS, `sweep`, target `full`",
}


def readme(example: Example, expected: dict) -> str:
    adapters = example.manifest["adapters"]
    scores = expected["variants"]
    return README.format(
        parameters=sum(value.numel() for value in example.encoder.parameters()) / 1e6,
        tasks="\n".join(f"| `{a['name']}` | {a['title'].lower()} | {', '.join(a['labels'])} |" for a in adapters),
        held_out=HELD_OUT,
        samples=SAMPLES,
        names=" | ".join(example.names),
        rules=" | ".join("---:" for _ in example.names),
        rows="\n".join(
            f"| {words} | " + " | ".join(f"{100 * scores[key][name]['accuracy']:.1f}" for name in example.names) + " |"
            for key, words in VARIANTS.items()
        ),
    )


def make(out: pathlib.Path) -> None:
    draw, taken = random.Random(SEED), set()
    # The generative example lies in the same folder, and stays.
    for part in ("base", "adapters", "samples", "held-out"):
        shutil.rmtree(out / part, ignore_errors=True)
    # Held-out texts first, so that nothing after them can contain one.
    splits = {
        task: {
            split: grammar.texts(task, count, draw, taken)
            for split, count in (("held-out", HELD_OUT), ("samples", SAMPLES), ("training", TRAINING_TEXTS))
        }
        for task in grammar.TASKS
    }
    unlabelled = {task: grammar.texts(task, PRETRAINING_TEXTS, draw, taken) for task in grammar.TASKS}
    corpus = [(text, kind) for kind, task in enumerate(unlabelled) for text, _ in unlabelled[task]]
    tokenizer = make_tokenizer()
    log(f"{len(corpus)} texts to learn to read from, {tokenizer.get_vocab_size()} tokens")
    ids = encode(tokenizer, [text for text, _ in corpus])
    write_base(
        pretrain(ids, [kind for _, kind in corpus], tokenizer.get_vocab_size(), PRETRAINING_STEPS),
        tokenizer,
        out / "base",
    )
    adapters = []
    for task, split in splits.items():
        labels = list(grammar.TASKS[task][1])
        log(f"adapter {task}: {', '.join(labels)}")
        model = train_adapter(
            out / "base",
            encode(tokenizer, [text for text, _ in split["training"]]),
            [labels.index(label) for _, label in split["training"]],
            labels,
            ADAPTER_STEPS,
            ADAPTER_RATE,
        )
        write_adapter(model, labels, out / "adapters" / task)
        (out / "samples").mkdir(exist_ok=True)
        (out / "samples" / f"{task}.txt").write_text("".join(f"{text}\n" for text, _ in split["samples"]))
        (out / "held-out").mkdir(exist_ok=True)
        (out / "held-out" / f"{task}.jsonl").write_text(
            "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in split["held-out"])
        )
        adapters.append(
            {
                "name": task,
                "title": TITLES[task],
                "files": [f"adapters/{task}/{file}" for file in ("adapter_config.json", "adapter_model.safetensors", "labels.json")],
                "samples": f"samples/{task}.txt",
                "heldOut": f"held-out/{task}.jsonl",
                "labels": labels,
            }
        )  # fmt: skip
    write_json(
        out / "example.json",
        {
            "title": "Reviews, requests and notes",
            "description": "A small BERT and three adapters that read the same words for different ends: "
            "what a review thinks, what a customer asks for, how soon a note wants an answer.",
            "base": sorted(f"base/{path.name}" for path in (out / "base").iterdir()),
            "adapters": adapters,
        },
    )
    example = Example(out)
    log("merging with the oracle")
    expected = example.expected()
    write_json(out / "expected.json", expected)
    (out / "README.md").write_text(readme(example, expected))
    for variant, scores in expected["variants"].items():
        log(f"{variant:16}" + "  ".join(f"{name} {score['accuracy']:.3f}" for name, score in scores.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "www" / "example")
    torch.set_num_threads(1)
    make(parser.parse_args().out)
