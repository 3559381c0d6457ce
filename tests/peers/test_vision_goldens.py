"""The goldens of images are what their scripts make."""

import blip
import convolutions
import numpy as np
import pictures
import pytest
import towers
import vit
from PIL import Image
from regenerated import files_in, json_agrees, tensors_agree
from support import GOLDENS


def agree(kept, again):
    assert files_in(again) == files_in(kept)
    for name in files_in(kept):
        if name.endswith(".safetensors"):
            tensors_agree(kept / name, again / name)
        elif name.endswith(".json"):
            json_agrees(kept / name, again / name)


def test_convolutions_are_what_the_script_makes(tmp_path):
    convolutions.generate(tmp_path / "convolutions")
    agree(GOLDENS / "convolutions", tmp_path / "convolutions")


def test_vision_transformers_are_what_the_script_makes(tmp_path):
    vit.generate(tmp_path / "vit")
    agree(GOLDENS / "vit", tmp_path / "vit")


def test_captioners_are_what_the_script_makes(tmp_path):
    kept, again = GOLDENS / "blip", tmp_path / "blip"
    blip.generate(again)
    agree(kept, again)
    for path in kept.rglob("*.jsonl"):
        assert path.read_text() == (again / path.relative_to(kept)).read_text()
    for path in kept.rglob("*.png"):
        assert np.array_equal(np.array(Image.open(path)), np.array(Image.open(again / path.relative_to(kept))))


def test_towers_are_what_the_script_makes(tmp_path):
    towers.generate(tmp_path / "towers")
    agree(GOLDENS / "towers", tmp_path / "towers")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    pictures.generate(folder)
    return folder


def test_what_the_processors_make_is_what_the_script_makes(made):
    agree(GOLDENS / "pictures", made)


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_made_again_has_the_same_pixels(made, name):
    """Not the same bytes: those are the compressor's."""
    here, there = (Image.open(folder / "files" / name) for folder in (GOLDENS / "pictures", made))
    assert (here.mode, here.size, here.info) == (there.mode, there.size, there.info)
    assert np.array_equal(np.array(here), np.array(there))
