"""The example of pictures is what its script makes, as far as that can be told without training it again."""

import functools
import json

import make_pictures as make
import numpy as np
import pytest
from oracle import Deltas
from PIL import Image
from support import EXAMPLE, cli, merge_words
from transformers import AutoImageProcessor, AutoTokenizer

FOLDER = EXAMPLE / "pictures"
LIMIT = 6 * 2**20
"""Bytes of the whole folder, from the issue."""


@functools.cache
def example() -> make.Example:
    return make.Example(FOLDER)


@functools.cache
def expected() -> dict:
    return json.loads((FOLDER / "expected.json").read_text())


@functools.cache
def found() -> dict:
    return example().expected()


def test_its_pictures_are_the_scripts_and_none_is_in_two_sets():
    splits = make.splits()
    drawn = [one for by_task in splits.values() for some in by_task.values() for one in some]
    assert len(set(drawn)) == len(drawn)
    for adapter in example().manifest["adapters"]:
        task = adapter["name"]
        for split, files in (("samples", adapter["samples"]), ("held-out", adapter["heldOut"])):
            pictures = [file for file in files if file.endswith(".png")]
            assert len(pictures) == len(splits[split][task])
            for file, one in zip(pictures, splits[split][task]):
                assert np.array_equal(np.array(Image.open(FOLDER / file)), one.pixels()), file
            _, said = make.read_pictures(FOLDER, files)
            bare = split == "samples" and task == "colours"
            assert said == (None if bare else [make.right(task, one) for one in splits[split][task]])


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < LIMIT


def test_transformers_reads_its_tokenizer_and_its_processor():
    text = "a large red circle in the middle"
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "base")
    ids = tokenizer(text)["input_ids"]
    assert ids == example().tokenizer.encode(text).ids == [make.CLS, *make.answers(example().tokenizer, [text])[0]]
    assert make.UNKNOWN not in ids
    assert tokenizer.bos_token_id == example().model.config.text_config.bos_token_id == make.DEC
    picture = Image.open(FOLDER / example().manifest["adapters"][0]["heldOut"][0])
    theirs = AutoImageProcessor.from_pretrained(FOLDER / "base", backend="pil")(picture, return_tensors="np")
    assert np.array_equal(theirs["pixel_values"], make.pixels([picture]).numpy())


def test_each_word_of_a_caption_is_one_token():
    for words in (*make.PLACES, *make.KINDS, *make.COLOURS, *make.SIZES):
        assert len(example().tokenizer.encode(words, add_special_tokens=False).ids) == len(words.split()), words


def test_its_expected_numbers_are_the_oracles_and_its_readme_tells_them():
    for key in ("held_out", "measured", "tolerance"):
        assert found()[key] == expected()[key]
    for table in ("variants", "variants_measured"):
        assert found()[table].keys() == expected()[table].keys()
        for variant, scores in expected()[table].items():
            for name, score in scores.items():
                for key, value in score.items():
                    assert found()[table][variant][name][key] == pytest.approx(value, abs=expected()["tolerance"]), (
                        table, variant, name, key,
                    )  # fmt: skip
    assert (FOLDER / "README.md").read_text() == make.readme(example(), expected())


def test_what_it_shows_as_written_is_what_transformers_writes():
    for file, texts in expected()["written"].items():
        # What base and adapters write is sure; the average and the merge are at odds with themselves in places.
        for writer in ("base", *example().names):
            assert found()["written"][file][writer] == texts[writer], (file, writer)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> tuple[dict, Deltas]:
    """What the command line says of merging the example, and the merged adapter as PEFT reads it."""
    out = tmp_path_factory.mktemp("merged") / "out"
    tasks = [
        {
            "folder": FOLDER / "adapters" / name,
            "samples": FOLDER / "samples" / name,
            "compare": FOLDER / "held-out" / name,
        }
        for name in example().names
    ]
    code, said, errors = cli(*merge_words(FOLDER / "base", tasks, out, compares=True))
    assert code == 0, errors
    return said, make.peft_deltas(example().model, out)


def test_our_comparison_has_the_expected_numbers(ours):
    theirs = {"base": "base", "adapter": "adapter", "average": "linear", "iteris": "sweep"}
    for task in ours[0]["comparison"]["tasks"]:
        scores = {variant["variant"]: variant for variant in task["variants"]}
        assert scores.keys() == theirs.keys()
        for our_name, name in theirs.items():
            for key, value in expected()["variants"][name][task["task"]].items():
                assert scores[our_name][key] == pytest.approx(value, abs=expected()["tolerance"]), (our_name, task["task"])


def test_our_merged_adapter_captions_as_the_oracles_in_transformers(ours):
    score = example().score(ours[1], "measured")
    for name in example().names:
        for key, value in expected()["variants_measured"]["sweep"][name].items():
            assert score[name][key] == pytest.approx(value, abs=expected()["tolerance"]), (name, key)


def test_the_merge_keeps_more_of_both_manners_than_the_average():
    measured = expected()["variants_measured"]
    for name in example().names:
        assert measured["base"][name]["accuracy"] == 0
        assert measured["adapter"][name]["accuracy"] > 0.95
        assert measured["sweep"][name]["accuracy"] > measured["linear"][name]["accuracy"] + 0.3
