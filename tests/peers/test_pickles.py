"""The pickles that the core reads are what torch writes, and hold what the test of the core expects in them."""

import pickles
import pytest
import torch
from regenerated import files_in
from safetensors.torch import load_file
from support import GOLDENS

DATA = GOLDENS.parents[1] / "pickle/data"


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickles")
    pickles.make(folder)
    return folder


def test_the_script_makes_the_same_files(again):
    assert files_in(again) == files_in(DATA)


@pytest.mark.parametrize("name", [name for name in files_in(DATA) if name.endswith(".safetensors")])
def test_tensors_come_out_the_same(again, name):
    kept, made = load_file(DATA / name), load_file(again / name)
    assert kept.keys() == made.keys()
    for key, value in kept.items():
        assert value.dtype == made[key].dtype and torch.equal(value, made[key]), key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zip.bin", "expected.safetensors"),
        ("protocol4.bin", "expected.safetensors"),
        ("legacy.bin", "expected.safetensors"),
        ("state.bin", "state.safetensors"),
        ("state-legacy.bin", "state.safetensors"),
    ],
)
def test_torch_reads_the_same_tensors(name, expected):
    """The kept files, by torch itself: what the core is held against is not our own idea of a pickle."""
    # These files are our own; torch's safe mode knows no protocol 4.
    read, wanted = torch.load(DATA / name, weights_only=False), load_file(DATA / expected)
    assert read.keys() == wanted.keys()
    for key, value in wanted.items():
        assert read[key].dtype == value.dtype and torch.equal(read[key], value), key
