"""The command line's merges of real adapters: the built-in example and the emotion fixtures.

PEFT loads what was written; its logits are those of our own forward pass; its accuracy is what the program said.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from support import (
    EMOTION,
    EXAMPLE,
    LOGIT_TOLERANCE,
    classifier,
    cli,
    head_of,
    held_out,
    logits_in_peft,
    logits_in_wasm,
    merge_words,
    minilm,
    needs_emotion,
    token_ids,
    under,
)
from transformers import BertForSequenceClassification

LIMIT = 64
COUNT = 120
"""Held-out texts whose logits are compared, a task; accuracies are compared on all of them."""
# f16 has 11 bits: a factor is off by 2^-11 at most, and a logit is a sum over some layers of such errors.
HALF_TOLERANCE = 2e-2


def example_tasks() -> list[dict]:
    manifest = json.loads((EXAMPLE / "example.json").read_text())
    return [
        {
            "name": adapter["name"],
            "folder": EXAMPLE / "adapters" / adapter["name"],
            "samples": EXAMPLE / adapter["samples"],
            "compare": EXAMPLE / adapter["heldOut"],
            "labels": adapter["labels"],
        }
        for adapter in manifest["adapters"]
    ]


def emotion_tasks() -> list[dict]:
    return [
        {
            "name": name,
            "folder": EMOTION / name,
            "samples": EMOTION / f"{name}.samples.txt",
            "compare": EMOTION / f"{name}.test.jsonl",
            "labels": json.loads((EMOTION / name / "labels.json").read_text()),
        }
        for name in ("emoint", "isear")
    ]


class Merged:
    """One merge by the command line, and the model it was for."""

    def __init__(self, base, tasks, out, *more, compares=False):
        self.base, self.tasks, self.out = base, tasks, out
        # A method that reads no samples cuts none.
        limit = [] if "--method" in more else ["--max-length", LIMIT]
        status, self.said, complaint = cli(*merge_words(base, tasks, out, *limit, *more, compares=compares))
        assert status == 0, (self.said, complaint)

    def texts(self, task):
        texts, labels = held_out(task["compare"], task["labels"])
        return token_ids(self.base, texts, LIMIT), labels

    def model(self, task):
        return classifier(self.base, head_of(task["folder"]))

    def variant(self, task, name):
        rows = next(row for row in self.said["comparison"]["tasks"] if row["task"] == task["name"])
        return next(variant for variant in rows["variants"] if variant["variant"] == name)


@pytest.fixture(scope="module", params=["example", pytest.param("emotion", marks=needs_emotion)])
def merged(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "out"
    if request.param == "example":
        return Merged(EXAMPLE / "base", example_tasks(), out, compares=True)
    return Merged(minilm(), emotion_tasks(), out, compares=True)


def merged_name(merged: Merged) -> str:
    """What the comparison calls the merge itself: the variant that is neither an input nor the average."""
    names = {row["variant"] for task in merged.said["comparison"]["tasks"] for row in task["variants"]}
    found = [name for name in names if name not in ("base", "adapter", "average")]
    assert len(found) == 1, names
    return found[0]


def test_peft_loads_the_merge_and_gives_our_logits(merged):
    for task in merged.tasks:
        ids, _ = merged.texts(task)
        wanted = logits_in_peft(under(merged.model(task), merged.out), ids[:COUNT])
        found = logits_in_wasm(merged.base, merged.out, task["folder"], ids[:COUNT])
        assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE, task["name"]


def test_peft_gives_our_logits_for_the_adapters_themselves(merged):
    for task in merged.tasks:
        ids, _ = merged.texts(task)
        wanted = logits_in_peft(under(merged.model(task), task["folder"]), ids[:COUNT])
        found = logits_in_wasm(merged.base, task["folder"], None, ids[:COUNT])
        assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE, task["name"]


def test_accuracy_and_agreement_are_those_that_peft_gives(merged):
    for task in merged.tasks:
        ids, labels = merged.texts(task)
        model = merged.model(task)
        base = logits_in_peft(model, ids).argmax(1)
        own = logits_in_peft(under(model, task["folder"]), ids).argmax(1)
        both = logits_in_peft(under(model, merged.out), ids).argmax(1)
        # A logit apart by rounding may turn one answer.
        slack = 1.01 / len(ids)
        for name, answers in (("base", base), ("adapter", own), (merged_name(merged), both)):
            row = merged.variant(task, name)
            accuracy = float((answers == labels).double().mean())
            agreement = float((answers == own).double().mean())
            assert row["accuracy"] == pytest.approx(accuracy, abs=slack), (task["name"], name)
            assert row["agreement"] == pytest.approx(agreement, abs=slack), (task["name"], name)


def test_a_merged_base_gives_the_same_logits_in_transformers(merged, tmp_path):
    Merged(merged.base, merged.tasks, tmp_path / "out", "--output", "base")
    for task in merged.tasks:
        ids, _ = merged.texts(task)
        wanted = logits_in_peft(under(merged.model(task), merged.out), ids[:COUNT])
        whole = classifier(tmp_path / "out", head_of(task["folder"]))
        stored = next(iter(load_file(tmp_path / "out" / "model.safetensors").values())).dtype
        found = logits_in_peft(whole, ids[:COUNT])
        tolerance = LOGIT_TOLERANCE if stored == torch.float32 else HALF_TOLERANCE
        assert float((found - wanted).abs().max()) < tolerance, task["name"]


def test_an_f16_merge_is_within_f16_of_the_f32_merge(merged, tmp_path):
    Merged(merged.base, merged.tasks, tmp_path / "out", "--dtype", "f16")
    for task in merged.tasks:
        ids, _ = merged.texts(task)
        single = logits_in_peft(under(merged.model(task), merged.out), ids[:COUNT])
        half = logits_in_peft(under(merged.model(task), tmp_path / "out"), ids[:COUNT])
        assert 0 < float((half - single).abs().max()) < HALF_TOLERANCE, task["name"]


def test_a_truncated_merge_has_the_rank_and_stays_the_best_of_it(merged, tmp_path):
    rank = 6
    Merged(merged.base, merged.tasks, tmp_path / "out", "--rank", rank)
    whole, cut = (load_file(folder / "adapter_model.safetensors") for folder in (merged.out, tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    kept = {layer["module"].removeprefix("bert."): layer["energy_kept"] for layer in report["layers"]}
    for key in (key for key in whole if "lora_A" in key):
        other = key.replace("lora_A", "lora_B")
        assert cut[key].shape[0] == rank
        delta = whole[other].double() @ whole[key].double()
        values = torch.linalg.svdvals(delta)
        share = float((values[:rank] ** 2).sum() / (values**2).sum())
        name = key.removeprefix("base_model.model.").removeprefix("bert.").removesuffix(".lora_A.weight")
        assert kept[name] == pytest.approx(share, abs=1e-5)
        lost = float((cut[other].double() @ cut[key].double() - delta).norm() ** 2 / delta.norm() ** 2)
        assert lost == pytest.approx(1 - share, abs=1e-5), key


def test_the_example_shows_the_difference_to_a_linear_average():
    """By the oracle's numbers, which the next test compares the program with."""
    variants = json.loads((EXAMPLE / "expected.json").read_text())["variants"]
    gains = {}
    for name, score in variants["sweep"].items():
        gains[name] = score["accuracy"] - variants["linear"][name]["accuracy"]
        assert score["accuracy"] <= variants["adapter"][name]["accuracy"] + 0.02, name
    assert min(gains.values()) > 0
    assert max(gains.values()) > 0.1


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("sweep", []),
        ("sweep-full", ["--target", "full"]),
        ("iterate1", ["--schedule", "iterate", "--max-iter", 1]),
        ("iterate3", ["--schedule", "iterate", "--max-iter", 3]),
        ("linear", ["--method", "average"]),
        ("task-arithmetic", ["--method", "task_arithmetic"]),
    ],
)
def test_the_examples_accuracy_is_the_oracles(variant, words, tmp_path):
    expected = json.loads((EXAMPLE / "expected.json").read_text())
    more = ["--output", "base", "--dtype", "f32"] if variant == "sweep-full" else []
    tasks = example_tasks()
    made = Merged(EXAMPLE / "base", tasks, tmp_path / "out", *words, *more)
    for task in tasks:
        ids, labels = made.texts(task)
        if more:
            model = classifier(tmp_path / "out", head_of(task["folder"]))
        else:
            model = under(made.model(task), tmp_path / "out")
        accuracy = float((logits_in_peft(model, ids).argmax(1) == labels).double().mean())
        wanted = expected["variants"][variant][task["name"]]["accuracy"]
        assert accuracy == pytest.approx(wanted, abs=2.01 / len(ids)), task["name"]


@needs_emotion
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("sweep", []),
        ("iterate1", ["--schedule", "iterate", "--max-iter", 1]),
        ("iterate3", ["--schedule", "iterate", "--max-iter", 3]),
    ],
)
def test_the_emotion_accuracy_is_the_oracles_within_half_a_point(key, words, tmp_path):
    tasks = emotion_tasks()
    expected = json.loads((EMOTION / "expected.json").read_text())
    wanted = next(group for group in expected["groups"] if group["tasks"] == [task["name"] for task in tasks])
    made = Merged(minilm(), tasks, tmp_path / "out", *words)
    for task in tasks:
        ids, labels = made.texts(task)
        accuracy = float((logits_in_peft(under(made.model(task), made.out), ids).argmax(1) == labels).double().mean())
        assert accuracy == pytest.approx(wanted["accuracy"][key][task["name"]], abs=0.005), task["name"]


def test_the_example_base_is_a_transformers_checkpoint():
    _, report = BertForSequenceClassification.from_pretrained(EXAMPLE / "base", output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not report["unexpected_keys"]
