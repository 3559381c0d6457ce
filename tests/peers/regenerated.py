"""How a golden file made again is compared with the one that is kept."""

import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file

# Libraries may sum in another order from release to release.
TOLERANCE = 1e-6
COMPUTED = ("expected.safetensors", "cases.safetensors", "merged.safetensors")
VARIES = {"transformers_version", "peft_version", "f32_deviation"}


def files_in(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def tensors_agree(kept: pathlib.Path, again: pathlib.Path) -> None:
    """Inputs (weights, adapters) come from numpy's stream and are exact; outputs are computed."""
    here, there = load_file(kept), load_file(again)
    assert here.keys() == there.keys()
    for key, value in here.items():
        assert value.dtype == there[key].dtype
        assert value.shape == there[key].shape
        if kept.name not in COMPUTED:
            assert torch.equal(value, there[key]), key
        else:
            worst = float((value.double() - there[key].double()).abs().max())
            assert worst <= TOLERANCE * max(1.0, float(value.abs().max())), key


def json_agrees(kept: pathlib.Path, again: pathlib.Path) -> None:
    def same(here, there, where):
        if isinstance(here, float):
            assert there == pytest.approx(here, rel=1e-5), where
        elif isinstance(here, dict):
            assert here.keys() == there.keys(), where
            for key in here.keys() - VARIES:
                same(here[key], there[key], f"{where}/{key}")
        elif isinstance(here, list):
            assert len(here) == len(there), where
            for i, (one, other) in enumerate(zip(here, there)):
                same(one, other, f"{where}/{i}")
        else:
            assert here == there, where

    same(json.loads(kept.read_text()), json.loads(again.read_text()), kept.name)
