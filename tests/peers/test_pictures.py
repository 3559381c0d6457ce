"""Merged adapters of models that read pictures, judged by transformers and PEFT: ViT, CLIP, BLIP.

The command line merges folders of pictures; PEFT loads what it saved onto the base. Models are the tiny ones of the shared
fixtures, skipped where those are absent, and the goldens' BLIP.
"""

import copy
import functools
import pathlib

import language_oracle
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import GOLDENS, LOGIT_TOLERANCE, ROOT, cli, merge_words, under, wasm
from tokenizers import Tokenizer
from transformers import AutoImageProcessor, BlipForConditionalGeneration, CLIPModel, ViTForImageClassification

FIXTURES = ROOT.parent / "shared" / "fixtures" / "images"
CASES = {"vit": FIXTURES / "vit", "clip": FIXTURES / "clip", "blip": FIXTURES / "blip", "odd blip": GOLDENS / "blip"}
MODELS = {"vit": ViTForImageClassification, "clip": CLIPModel, "blip": BlipForConditionalGeneration}
DELTA_TOLERANCE = 2e-4
"""Of the Frobenius norm, from the issue."""
TASKS = ["a", "b"]
MAX_NEW_TOKENS = 12
LABELS = ["a red house", "two small dogs", "a blue river near the tree"]
LEAST_LEAD = 1e-3
"""Of a choice that is compared: nobody has chosen these pictures for the merge, so one may hinge on rounding."""


def cases(*kinds: str):
    """The models of these kinds; those of the fixtures are skipped where there are none."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(name, marks=pytest.mark.skipif(not folder.is_dir(), reason="no shared fixtures beside this checkout"))
            for name, folder in CASES.items()
            if name.split()[-1] in kinds
        ],
    )  # fmt: skip


@functools.cache
def base_of(case: str) -> torch.nn.Module:
    """transformers' model, in f32 and eval mode."""
    folder = CASES[case] / "base"
    return MODELS[case.split()[-1]].from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def pictures(case: str, task: str) -> list[pathlib.Path]:
    return sorted((CASES[case] / f"{task}.samples").glob("*.png"))


@functools.cache
def pixels(case: str, task: str) -> torch.Tensor:
    """(pictures, 3, height, width), by transformers' own processor of the Pillow backend."""
    processor = AutoImageProcessor.from_pretrained(CASES[case] / "base", backend="pil")
    return processor([Image.open(path) for path in pictures(case, task)], return_tensors="pt")["pixel_values"]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """By case what the command line saves of both adapters, and what it says; CLIP chooses among `LABELS`."""

    @functools.cache
    def made(case: str) -> tuple[pathlib.Path, dict]:
        out, folder = tmp_path_factory.mktemp("merged") / "out", CASES[case]
        tasks = [
            {"folder": folder / task, "samples": folder / f"{task}.samples", "compare": folder / f"{task}.samples"}
            for task in TASKS
        ]
        labels = [word for label in LABELS for word in ("--label", label)] if case == "clip" else []
        code, said, errors = cli(*merge_words(folder / "base", tasks, out, *labels, compares=case == "clip"))
        assert code == 0, errors
        return out, said

    return made


def samples_with(case: str, task: str, **more) -> dict:
    return {"pictures": list(map(str, pictures(case, task)))} | more


def our_logits(case: str, adapter: pathlib.Path, head: pathlib.Path | None, samples: dict) -> torch.Tensor:
    said = wasm(
        {"command": "logits", "base": CASES[case] / "base", "adapter": adapter, "head": head, "samples": samples}
    )
    assert "error" not in said, said
    return torch.tensor(said["data"]).reshape(said["shape"])


@cases("vit", "clip", "blip")
def test_peft_finds_the_oracles_deltas_in_a_merged_adapter(case, merged):
    out, _ = merged(case)
    under(base_of(case), out)
    found = language_oracle.peft_deltas(base_of(case), out)
    if CASES[case].parent == FIXTURES:
        factors = load_file(CASES[case] / "expected.a-b.safetensors")
        names = {key.split("/")[1].rsplit(".lora_", 1)[0] for key in factors if key.startswith("sweep/")}
        wanted = {
            name.removeprefix("vit."): factors[f"sweep/{name}.lora_B"].double() @ factors[f"sweep/{name}.lora_A"].double()
            for name in names
        }
    else:
        kept = load_file(CASES[case] / "merged.safetensors")
        wanted = {key.removeprefix("sweep."): delta for key, delta in kept.items() if key.startswith("sweep.")}
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert float((found[name] - delta).norm() / delta.norm()) < DELTA_TOLERANCE, name


@cases("vit")
@pytest.mark.parametrize("task", TASKS)
def test_classes_under_a_merged_adapter_are_those_of_peft(case, task, merged):
    """Each task under its own adapter's head, which PEFT reads from that adapter."""
    out, _ = merged(case)
    found = our_logits(case, out, CASES[case] / task, samples_with(case, task))
    head = load_file(CASES[case] / task / "adapter_model.safetensors")
    base = copy.deepcopy(base_of(case))
    base.classifier = torch.nn.Linear(base.config.hidden_size, len(head["base_model.model.classifier.bias"]))
    base.classifier.weight.data = head["base_model.model.classifier.weight"]
    base.classifier.bias.data = head["base_model.model.classifier.bias"]
    with torch.no_grad():
        wanted = under(base, out)(pixel_values=pixels(case, task)).logits
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE


@cases("clip")
@pytest.mark.parametrize("task", TASKS)
def test_shares_of_labels_under_a_merged_adapter_are_those_of_peft(case, task, merged):
    out, said = merged(case)
    ids = Tokenizer.from_file(str(CASES[case] / "base" / "tokenizer.json")).encode_batch(LABELS)
    model = under(base_of(case), out)
    logits = []
    for label in ids:
        # Each label alone: the tokenizer pads with the token that ends a text, where the text tower pools.
        with torch.no_grad():
            run = model(input_ids=torch.tensor([label.ids]), pixel_values=pixels(case, task))
        logits.append(run.logits_per_image[:, 0])
    wanted = torch.stack(logits, 1).softmax(1)
    (told,) = [one["said"] for one in said["comparison"]["tasks"] if one["task"] == task]
    assert len(told) == len(wanted)
    for picture, shares in zip(told, wanted):
        (ours,) = [one["classes"] for one in picture["variants"] if one["variant"] == "iteris"]
        assert {one["label"] for one in ours} == set(LABELS)
        for one in ours:
            assert one["share"] == pytest.approx(float(shares[LABELS.index(one["label"])]), abs=LOGIT_TOLERANCE)


@cases("blip")
@pytest.mark.parametrize("task", TASKS)
def test_captions_and_logits_under_a_merged_adapter_are_those_of_peft(case, task, merged):
    out, _ = merged(case)
    exact = copy.deepcopy(base_of(case)).double()
    deltas = language_oracle.peft_deltas(exact, out)
    wanted = [
        language_oracle.own_caption(exact, deltas, one.double(), MAX_NEW_TOKENS) for one in pixels(case, task)
    ]
    tokenizer = Tokenizer.from_file(str(CASES[case] / "base" / "tokenizer.json"))
    files = [word for path in pictures(case, task) for word in ("--image", path)]
    code, said, errors = cli(
        "generate", "--base", CASES[case] / "base", "--adapter", out, *files,
        "--max-new-tokens", MAX_NEW_TOKENS, "--device", "cpu",
    )  # fmt: skip
    assert code == 0, errors
    (written,) = [variant["texts"] for variant in said["variants"] if variant["name"] != "base"]
    compared = 0
    for text, (ids, lead) in zip(written, wanted, strict=True):
        if lead > LEAST_LEAD:
            assert text == tokenizer.decode(ids, skip_special_tokens=True)
            compared += 1
    assert compared >= len(wanted) // 2, "too few captions could be compared"

    answers = [ids for ids, _ in wanted]
    found = our_logits(case, out, None, samples_with(case, task, answers=answers))
    model, start, rows = under(base_of(case), out), exact.config.text_config.bos_token_id, []
    for one, answer in zip(pixels(case, task), answers):
        ids = torch.tensor([language_oracle.shifted(answer, start)])
        with torch.no_grad():
            rows.append(model(pixel_values=one[None], input_ids=ids).logits[0])
    theirs = torch.cat(rows)
    assert found.shape == theirs.shape
    assert float((found - theirs).abs().max()) < LOGIT_TOLERANCE * float(theirs.abs().max())
