"""The generative example is what its script makes, as far as that can be told without training it again."""

import functools
import json

import make_generative as make
import pytest
import sentences
from oracle import Deltas
from support import EXAMPLE, cli, merge_words
from transformers import AutoTokenizer, GenerationConfig

FOLDER = EXAMPLE / "generative"


@functools.cache
def example() -> make.Example:
    return make.Example(FOLDER)


@functools.cache
def expected() -> dict:
    return json.loads((FOLDER / "expected.json").read_text())


@functools.cache
def found() -> dict:
    return example().expected()


def test_its_prompts_and_its_tokenizer_are_the_scripts_and_no_sentence_is_in_two_sets():
    draw, taken = make.Draw(make.SEED), set()
    for task in sentences.TASKS:
        held_out = sentences.pairs(task, make.HELD_OUT, draw, taken)
        samples = sentences.pairs(task, make.SAMPLES, draw, taken)
        sentences.pairs(task, make.TRAINING_PAIRS, draw, taken)
        assert example().held_out[task] == held_out
        assert make.read_lines(FOLDER / "samples" / f"{task}.jsonl") == [{"prompt": prompt} for prompt, _ in samples]
    assert len(taken) == len(sentences.TASKS) * (make.HELD_OUT + make.SAMPLES + make.TRAINING_PAIRS)
    made = make.make_tokenizer([sentences.story(draw) for _ in range(make.STORIES)])
    assert made.get_vocab() == example().tokenizer.get_vocab()


def test_transformers_reads_its_tokenizer_and_where_it_stops():
    text = "Question: The old cat sings – près du lac?"
    ids = AutoTokenizer.from_pretrained(FOLDER / "base")(text)["input_ids"]
    assert ids == example().tokenizer.encode(text).ids
    assert ids[0] == make.BEGIN
    assert example().tokenizer.decode(ids) == text
    assert GenerationConfig.from_pretrained(FOLDER / "base").eos_token_id == make.END


def test_each_word_of_a_sentence_is_one_token():
    words = [*sentences.BEINGS, *sentences.THINGS, *sentences.OPPOSITE, *sum(sentences.DOES + sentences.DOES_TO, [])]
    for word in words:
        assert len(example().tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1, word


def test_each_own_answer_ends_within_the_default_length():
    for task in example().tasks:
        for sample in task.inputs:
            assert sample["input_ids"][-1] == make.END


def test_its_expected_numbers_are_the_oracles_and_its_readme_tells_them():
    assert found()["held_out"] == expected()["held_out"]
    assert found()["variants"].keys() == expected()["variants"].keys()
    for variant, scores in expected()["variants"].items():
        for name, score in scores.items():
            for key, value in score.items():
                assert found()["variants"][variant][name][key] == pytest.approx(
                    value, abs=expected()["tolerance"]
                ), (variant, name, key)
    assert (FOLDER / "README.md").read_text() == make.readme(example(), expected())


def test_what_it_shows_as_written_is_what_transformers_writes():
    for name in example().names:
        prompt, right = example().held_out[name][0]
        # What the others write is left out: where they wander on, two words may be all but even.
        for writer in (name, "sweep"):
            assert found()["written"][prompt][writer] == expected()["written"][prompt][writer] == right


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> tuple[dict, Deltas]:
    """What the command line says of merging the example, and the merged adapter as PEFT reads it."""
    out = tmp_path_factory.mktemp("merged")
    tasks = [
        {
            "folder": FOLDER / "adapters" / adapter["name"],
            "samples": FOLDER / adapter["samples"],
            "compare": FOLDER / adapter["heldOut"],
        }
        for adapter in example().manifest["adapters"]
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
            score = expected()["variants"][name][task["task"]]
            for key, value in score.items():
                assert scores[our_name][key] == pytest.approx(value, abs=expected()["tolerance"]), (our_name, task)


def test_our_merged_adapter_does_all_tasks_in_transformers(ours):
    score = example().score(ours[1])
    for name in example().names:
        assert score[name]["accuracy"] == pytest.approx(
            expected()["variants"]["sweep"][name]["accuracy"], abs=expected()["tolerance"]
        )


def test_the_merge_does_all_tasks_and_the_average_none():
    variants = expected()["variants"]
    for name in example().names:
        assert variants["base"][name]["accuracy"] == 0
        assert variants["adapter"][name]["accuracy"] > 0.95
        assert variants["sweep"][name]["accuracy"] > 0.9
        assert variants["linear"][name]["accuracy"] < 0.5
