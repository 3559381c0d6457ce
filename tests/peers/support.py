"""What the checks against transformers and PEFT share: where things are, how our side is run, how theirs is.

Everything here that is *expected* comes from transformers, PEFT or `tests/goldens/oracle.py`; our side is only ever run
as a program, in Node.
"""

from __future__ import annotations

import copy
import functools
import json
import pathlib
import subprocess

import pytest
import torch
from oracle import Batch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import BertForSequenceClassification, BertModel

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDENS = ROOT / "tests" / "goldens" / "data"
EXAMPLE = ROOT / "www" / "example"
EMOTION = ROOT.parent / "shared" / "fixtures" / "emotion"
needs_emotion = pytest.mark.skipif(not EMOTION.is_dir(), reason="no shared fixtures beside this checkout")
LOGIT_TOLERANCE = 1e-4
"""Absolute, from the issue. Both sides compute in f32 and logits are of size 1 to 10."""


def minilm() -> pathlib.Path:
    """The folder of the real model; `tests/minilm.mjs` downloads it if it is not there."""
    done = subprocess.run(["node", ROOT / "tests" / "minilm.mjs"], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return pathlib.Path(done.stdout.strip().splitlines()[-1])


def wasm(request: dict) -> dict:
    """One call of the wasm module in Node; see wasm.mjs. A process that has died is no answer and fails the test."""
    server = _wasm_server()
    print(json.dumps(request, default=str), file=server.stdin, flush=True)
    line = server.stdout.readline()
    if not line:
        _wasm_server.cache_clear()
    assert line, f"wasm.mjs ended with code {server.wait(10)}"
    return json.loads(line)


@functools.cache
def _wasm_server() -> subprocess.Popen:
    """One process for all calls: the module takes seconds to compile. It ends when its standard input does."""
    return subprocess.Popen(["node", HERE / "wasm.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def cli(*words: object) -> tuple[int, dict, str]:
    """Exit code, the JSON object of standard output, and standard error of `iteris-web WORDS --json`."""
    manifest = json.loads((ROOT / "package.json").read_text())
    program = ROOT / manifest["bin"]["iteris-web"]
    done = subprocess.run(["node", program, *map(str, words), "--json"], capture_output=True, text=True, timeout=1800)
    assert done.stdout.count("\n") <= 1 or json.loads(done.stdout) is not None, "standard output is not one object"
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def merge_words(
    base: pathlib.Path, tasks: list[dict], out: pathlib.Path, *more: object, compares: bool
) -> list[object]:
    """The words of a merge; a task has `folder`, `samples` and, to compare with, `compare`."""
    words: list[object] = ["merge", "--base", base, "--out", out, "--device", "cpu"]
    for task in tasks:
        words += ["--adapter", task["folder"], "--samples", task["samples"]]
        if compares:
            words += ["--compare", task["compare"]]
    return [*words, *more]


def head_of(adapter: pathlib.Path) -> dict[str, torch.Tensor]:
    """The classifier in an adapter's file."""
    saved = load_file(adapter / "adapter_model.safetensors")
    return {key: saved[f"base_model.model.classifier.{key}"] for key in ("weight", "bias")}


def classifier(base: pathlib.Path, head: dict[str, torch.Tensor]) -> nn.Module:
    """transformers' classifier on a base, under the given head, in f32 and eval mode."""
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(
        base,
        dtype=torch.float32,
        num_labels=len(head["bias"]),
        attn_implementation="eager",
        ignore_mismatched_sizes=True,
    ).eval()
    with torch.no_grad():
        model.classifier.weight.copy_(head["weight"])
        model.classifier.bias.copy_(head["bias"])
    return model


def under(model: nn.Module, adapter: pathlib.Path) -> PeftModel:
    """PEFT's model of an adapter; every tensor of the file must have found its place."""
    with_adapter = PeftModel.from_pretrained(copy.deepcopy(model), str(adapter)).eval()
    saved = load_file(adapter / "adapter_model.safetensors")
    loaded = {key.replace(".default", ""): value for key, value in with_adapter.named_parameters() if "lora_" in key}
    assert {key for key in saved if "lora_" in key} == set(loaded), "PEFT loads other modules than the file has"
    for key, value in loaded.items():
        assert torch.equal(value, saved[key].to(value.dtype)), f"PEFT did not load {key}"
    return with_adapter


def token_ids(base: pathlib.Path, texts: list[str], limit: int) -> list[list[int]]:
    """Ids as transformers' fast tokenizers make them: truncated with the special tokens kept."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def held_out(path: pathlib.Path, labels: list[str]) -> tuple[list[str], torch.Tensor]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["text"] for line in lines], torch.tensor([labels.index(line["label"]) for line in lines])


def logits_in_peft(model: nn.Module, ids: list[list[int]], type_ids=None) -> torch.Tensor:
    """Logits (samples, labels); in slices, so that padding to the longest stays cheap."""
    return torch.cat(
        [
            Batch.of(ids[i : i + 64], type_ids and type_ids[i : i + 64])(model).logits.float()
            for i in range(0, len(ids), 64)
        ]
    )


def logits_in_wasm(base, adapter, head, ids: list[list[int]], type_ids=None) -> torch.Tensor:
    """Logits (samples, labels) of our own forward pass."""
    said = wasm(
        {
            "command": "logits",
            "base": base,
            "adapter": adapter,
            "head": head,
            "samples": {"ids": ids, "type_ids": type_ids},
        }
    )
    assert "error" not in said, said
    return torch.tensor(said["data"]).reshape(said["shape"])


def tiny_inputs(name: str) -> dict:
    """`ids` and `type_ids` of a golden adapter."""
    return json.loads((GOLDENS / "adapters" / name / "inputs.json").read_text())


def bert(folder: pathlib.Path) -> BertModel:
    return BertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
