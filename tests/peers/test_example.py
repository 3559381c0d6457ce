"""The built-in example is what its script makes, as far as that can be told without training it again."""

import json
import random

import grammar
import make
from support import EXAMPLE
from transformers import AutoTokenizer

MEGABYTES = 6


def test_its_texts_are_the_grammars_and_none_is_in_two_sets():
    draw, taken = random.Random(make.SEED), set()
    for task in grammar.TASKS:
        held_out = grammar.texts(task, make.HELD_OUT, draw, taken)
        samples = grammar.texts(task, make.SAMPLES, draw, taken)
        training = grammar.texts(task, make.TRAINING_TEXTS, draw, taken)
        lines = (EXAMPLE / "held-out" / f"{task}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [{"text": text, "label": label} for text, label in held_out]
        assert (EXAMPLE / "samples" / f"{task}.txt").read_text().splitlines() == [text for text, _ in samples]
        assert len({text for text, _ in held_out + samples + training}) == len(held_out + samples + training)


def test_transformers_reads_its_tokenizer_as_the_script_means_it():
    text = "Could you mend the handle of my kettle? Kind regards, Zoë (no hurry!)"
    assert AutoTokenizer.from_pretrained(EXAMPLE / "base")(text)["input_ids"] == make.make_tokenizer().encode(text).ids


def test_its_expected_numbers_are_the_oracles_and_its_readme_tells_them():
    example = make.Example(EXAMPLE)
    expected = json.loads((EXAMPLE / "expected.json").read_text())
    found = example.expected()
    assert found["held_out"] == expected["held_out"]
    for variant, scores in expected["variants"].items():
        for name, score in scores.items():
            # One text of 150 may fall on the other side of a boundary with other kernels.
            assert abs(found["variants"][variant][name]["accuracy"] - score["accuracy"]) < 0.01, (variant, name)
    assert (EXAMPLE / "README.md").read_text() == make.readme(example, expected)


def test_it_is_small_enough_to_be_committed():
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < MEGABYTES * 2**20
