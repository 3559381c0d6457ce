"""Makes the generative example, `www/example/generative`: a tiny Llama, three LoRA adapters that conflict, prompts and answers.

    python tests/example/make_generative.py [--out FOLDER]

Everything starts from the sentences of `sentences.py` and a seed: a Llama trained from nothing to continue plain text, and
on it one adapter a task, trained with PEFT to answer a prompt with the sentence rewritten. The base is rounded to f16 before
any adapter is trained, so that the adapters fit the file that is saved, and the adapters are rounded before anything is
measured. Takes some six minutes on one core.
No sentence is in both the training and the held-out set: `sentences.pairs` keeps one set of all that was given out.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil

import sentences
import torch
from make import ROOT, log, save_adapter, write_json, write_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sentences import Draw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from language_oracle import Task, body_of, merge, patched, peft_deltas  # isort: skip  (`make` has set the path)
from oracle import Deltas, Options, linear_average, task_arithmetic  # isort: skip

SEED = 20260704
PAD, BEGIN, END = range(3)
MAX_LENGTH, MAX_NEW_TOKENS = 128, 16
HELD_OUT, SAMPLES, TRAINING_PAIRS = 60, 50, 3000
REHEARSED = 4500
"""Plain texts beside an adapter's training pairs, so that it does nothing under the headings of others."""
STORIES, PRETRAINING_STEPS, PRETRAINING_RATE = 20000, 1600, 3e-3
ADAPTER_STEPS, ADAPTER_RATE = 500, 2e-3
BATCH = 32
LORA = dict(
    r=8, lora_alpha=16, lora_dropout=0.0,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)  # fmt: skip
TOLERANCE = 0.034
"""Two answers of 60: where two tokens are all but even, other kernels may choose the other one."""
IGNORED = -100
"""The label of a token that the loss leaves out."""
TITLES = {
    "past": "Puts it in the past",
    "question": "Makes it a question",
    "opposite": "Turns its adjectives round",
}

Row = tuple[list[int], list[int]]
"""Token ids, and by token the id that is to be learnt there or IGNORED."""


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE as SmolLM2 has it, learnt until every word of the texts is one token; other words are spelled."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str], begin: bool = True) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=begin)]


def text_rows(tokenizer: Tokenizer, texts: list[str]) -> list[Row]:
    return [([*ids, END], [*ids, END]) for ids in encode(tokenizer, texts)]


def pair_rows(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[Row]:
    """A prompt and its completion, of which only the completion and its end are learnt."""
    prompts = encode(tokenizer, [prompt for prompt, _ in pairs])
    return [
        ([*prompt, *completion], [IGNORED] * len(prompt) + completion)
        for prompt, completion in zip(prompts, completions(tokenizer, pairs))
    ]


def completions(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[list[int]]:
    return [[*ids, END] for ids in encode(tokenizer, [completion for _, completion in pairs], begin=False)]


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def train(model: nn.Module, rows: list[Row], steps: int, rate: float, draw: Draw) -> None:
    """Next-token training. A batch takes rows of like length; it is padded at the right, where no causal token looks."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        first = int(draw.bits.integers(len(rows) - BATCH + 1))
        ids, labels = zip(*rows[first : first + BATCH])
        loss = model(input_ids=padded(ids, PAD), labels=padded(labels, IGNORED)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            log(f"  step {step}: loss {loss.item():.4f}")
    model.eval()


def pretrain(rows: list[Row], vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=320, max_position_embeddings=MAX_LENGTH, tie_word_embeddings=True,
            pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END,
        )
    )  # fmt: skip
    train(model, rows, PRETRAINING_STEPS, PRETRAINING_RATE, Draw(SEED + 1))
    return model


def load_base(folder: pathlib.Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def train_adapter(base: pathlib.Path, rows: list[Row]) -> PeftModel:
    torch.manual_seed(SEED)
    model = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **LORA))
    train(model, rows, ADAPTER_STEPS, ADAPTER_RATE, Draw(SEED + 2))
    return model


def write_base(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    model.half().save_pretrained(folder)
    write_tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=MAX_LENGTH
        ),
        folder,
    )


def write_adapter(model: PeftModel, folder: pathlib.Path) -> None:
    save_adapter(model, folder, "example/generative/base")
    path = folder / "adapter_model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def write_lines(path: pathlib.Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def greedy(model: LlamaForCausalLM, deltas: Deltas, prompts: list[list[int]]) -> list[list[int]]:
    """What the model with the deltas writes after each prompt: new tokens, the stop token included."""
    found: list[list[int]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(index)
    for length, indices in by_length.items():
        ids = torch.tensor([prompts[index] for index in indices])
        with patched(body_of(model), deltas), torch.no_grad():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=MAX_NEW_TOKENS
            )
        for index, row in zip(indices, out[:, length:].tolist()):
            found[index] = row[: row.index(END) + 1] if END in row else row
    return found


class Example:
    """The files of the example's folder, read back as transformers and PEFT read them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.manifest = json.loads((folder / "example.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
        self.model = load_base(folder / "base")
        self.names = [adapter["name"] for adapter in self.manifest["adapters"]]
        self.held_out, self.tasks = {}, []
        for adapter in self.manifest["adapters"]:
            name = adapter["name"]
            lines = read_lines(folder / adapter["heldOut"])
            self.held_out[name] = [(line["prompt"], line["completion"]) for line in lines]
            deltas = peft_deltas(self.model, folder / "adapters" / name)
            prompts = encode(self.tokenizer, [line["prompt"] for line in read_lines(folder / adapter["samples"])])
            # The samples have no answers: the adapter's own are read, as in a merge.
            answers = greedy(self.model, deltas, prompts)
            self.tasks.append(
                Task(name, deltas, [{"input_ids": prompt + answer} for prompt, answer in zip(prompts, answers)])
            )
        self.own = {task.name: self.answers(task.name, task.deltas) for task in self.tasks}

    def answers(self, name: str, deltas: Deltas) -> list[list[int]]:
        return greedy(self.model, deltas, encode(self.tokenizer, [prompt for prompt, _ in self.held_out[name]]))

    def score(self, deltas: Deltas | None) -> dict[str, dict[str, float]]:
        """By task: answers that are right to the last token, and those that are the own adapter's. None: each task's own."""
        found = {}
        for name in self.names:
            right = completions(self.tokenizer, self.held_out[name])
            own = self.own[name]
            here = own if deltas is None else self.answers(name, deltas)
            found[name] = {
                "accuracy": round(sum(a == b for a, b in zip(here, right)) / len(right), 5),
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
            "iterate3": merge(self.model, self.tasks, Options(schedule="iterate", max_iter=3)),
            "sweep": merge(self.model, self.tasks),
            "sweep-full": merge(self.model, self.tasks, Options(target="full")),
        }

    def expected(self) -> dict:
        variants = self.variants()
        shown = {task.name: task.deltas for task in self.tasks} | {key: variants[key] for key in ("linear", "sweep")}
        prompts = [self.held_out[name][0][0] for name in self.names]
        ids = encode(self.tokenizer, prompts)
        written = {key: greedy(self.model, deltas, ids) for key, deltas in ({"base": {}} | shown).items()}
        return {
            "held_out": {name: len(self.held_out[name]) for name in self.names},
            "tolerance": TOLERANCE,
            "variants": {key: self.score(deltas) for key, deltas in variants.items()},
            "written": {
                prompt: {key: self.tokenizer.decode(answers[i]) for key, answers in written.items()}
                for i, prompt in enumerate(prompts)
            },
        }

README = """\
# The generative example

A Llama of {parameters:.2f} million parameters (four layers, grouped-query attention, tied head) and three LoRA adapters for it, small enough
to be part of the page. All of it was made for this project by `tests/example/make_generative.py`: the sentences come from
`tests/example/sentences.py`, the tokenizer was made from them, the model was trained on them from nothing, and each adapter
was trained with PEFT on one task. It is a demonstration and good for nothing else.

The base continues plain text. Each adapter reads the first word of a prompt as an instruction:

| task | what it does | prompt | its answer |
| --- | --- | --- | --- |
{tasks}

They rewrite the same sentences, so what one changes another has to leave alone, and the merged adapter has to go by the first
word. Beside its own pairs an adapter has read plain text under other first words, so that it leaves their prompts to the base.
They have r 8 and alpha 16 on every linear layer.

## What merging does to it

Right answers in percent to the {held_out} held-out prompts of each task, written greedily; an answer is right if it is right to the last
token, the one that ends it included. They were computed by the PyTorch oracle (`tests/goldens/language_oracle.py`) with {samples} samples
a task (prompts alone: the adapters write the answers that are read) and alpha 1e-5. The same numbers, unrounded, are in
`expected.json` with the tolerance that another program is given.

| variant | {names} |
| --- | {rules} |
{rows}

What is written, to the length of {tokens} tokens:

{written}

## Files

- `base/`: LlamaForCausalLM in f16 as transformers saves it, and its tokenizer, which has each word of the sentences as one token
- `adapters/<task>/`: the adapter as PEFT saves it, in f16
- `samples/<task>.jsonl`: {samples} prompts without answers, to merge with
- `held-out/<task>.jsonl`: {held_out} other prompts with the right answers, to compare with; no sentence is in two of the sets
- `example.json`: what the page loads

Prompts of your own may use these words, in the order of the prompts above: {words}.
"""
VARIANTS = {
    "base": "base model",
    "adapter": "the task's own adapter",
    "linear": "linear average",
    "task-arithmetic": "task arithmetic, scale 1",
    "iterate1": "IterIS, `iterate`, 1 pass",
    "iterate3": "IterIS, `iterate`, 3 passes",
    "sweep": "IterIS, `sweep`",
    "sweep-full": "IterIS, `sweep`, target `full`",
}
WRITERS = {"base": "base model", "linear": "linear average", "sweep": "IterIS, `sweep`"}


def readme(example: Example, expected: dict) -> str:
    adapters = example.manifest["adapters"]
    scores = expected["variants"]
    held_out = {name: example.held_out[name][0] for name in example.names}
    writers = {name: f"adapter `{name}`" for name in example.names}
    return README.format(
        parameters=sum(value.numel() for value in example.model.parameters()) / 1e6,
        tasks="\n".join(
            f"| `{a['name']}` | {a['title'].lower()} | {held_out[a['name']][0]} | {held_out[a['name']][1].strip()} |"
            for a in adapters
        ),
        held_out=HELD_OUT,
        samples=SAMPLES,
        tokens=MAX_NEW_TOKENS,
        names=" | ".join(example.names),
        rules=" | ".join("---:" for _ in example.names),
        rows="\n".join(
            f"| {words} | " + " | ".join(f"{100 * scores[key][name]['accuracy']:.1f}" for name in example.names) + " |"
            for key, words in VARIANTS.items()
        ),
        written="\n\n".join(
            f"| {prompt} | |\n| --- | --- |\n"
            + "\n".join(f"| {words} | {texts[key].strip()} |" for key, words in (WRITERS | writers).items())
            for prompt, texts in expected["written"].items()
        ),
        words=", ".join(
            [
                *sentences.OWNERS, *sentences.OPPOSITE, *sentences.BEINGS, *sentences.THINGS,
                *(verb[1] for verb in sentences.DOES + sentences.DOES_TO), *sentences.PLACES,
            ]
        ),
    )  # fmt: skip


def make(out: pathlib.Path) -> None:
    draw, taken = Draw(SEED), set()
    shutil.rmtree(out, ignore_errors=True)
    # Held-out sentences first, so that nothing after them can contain one.
    splits = {
        task: {
            split: sentences.pairs(task, count, draw, taken)
            for split, count in (("held-out", HELD_OUT), ("samples", SAMPLES), ("training", TRAINING_PAIRS))
        }
        for task in sentences.TASKS
    }
    stories = [sentences.story(draw) for _ in range(STORIES)]
    tokenizer = make_tokenizer(stories)
    log(f"{len(stories)} stories to learn to continue, {tokenizer.get_vocab_size()} tokens")
    model = pretrain(text_rows(tokenizer, stories), tokenizer.get_vocab_size())
    write_base(model, tokenizer, out / "base")
    adapters = []
    for task, split in splits.items():
        log(f"adapter {task}")
        others = [heading for heading in sentences.HEADINGS if heading != sentences.TASKS[task][0]]
        rehearsed = [sentences.story(draw, others) for _ in range(REHEARSED)]
        rows = pair_rows(tokenizer, split["training"]) + text_rows(tokenizer, rehearsed)
        write_adapter(train_adapter(out / "base", rows), out / "adapters" / task)
        samples, held_out = f"samples/{task}.jsonl", f"held-out/{task}.jsonl"
        write_lines(out / samples, [{"prompt": prompt} for prompt, _ in split["samples"]])
        write_lines(out / held_out, [{"prompt": asked, "completion": answer} for asked, answer in split["held-out"]])
        adapters.append(
            {
                "name": task,
                "title": TITLES[task],
                "files": [f"adapters/{task}/{file}" for file in ("adapter_config.json", "adapter_model.safetensors")],
                "samples": samples,
                "heldOut": held_out,
                "prompt": split["held-out"][0][0],
            }
        )
    write_json(
        out / "example.json",
        {
            "title": "Past, question, opposite",
            "description": "A small Llama that continues plain text, and three adapters that rewrite a sentence: "
            "into the past, into a question, into its opposite.",
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
    log("done")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "www" / "example" / "generative")
    torch.set_num_threads(1)
    make(parser.parse_args().out)
