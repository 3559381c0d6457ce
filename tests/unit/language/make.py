"""Makes `data`: small tokenizers of the kinds that language models have, and what transformers does with them.

Each folder of `data` is what `save_pretrained` wrote (tokenizer.json, tokenizer_config.json, a chat template from
`templates`), and `expected.json` holds transformers' own ids and texts. Vocabularies are trained here on a few lines,
so that words span one to several tokens as they do in real ones.

    ~/.cache/iteris-web/peers/bin/python tests/unit/language/make.py
"""

from __future__ import annotations

import json
import pathlib
import shutil

from jinja2.exceptions import TemplateError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent

CORPUS = [
    "Where is the station? The station is near the market.",
    "Translate: the small house is near the river, and the river is near the market.",
    "Is the answer yes or no? The answer is yes. The answer is no.",
    "A user asks where the house is; an assistant answers that it is near the station.",
    "def answer(question):\n    return yes if question else no\n",
    "Übung macht den Meister: größer, schöner, näher.",
] * 4

TEXTS = [
    "Where is the house?",
    "  two  spaces\tand a tab ",
    "größer 東京 🙂 \u00e9",
    "line one\nline two\n",
    "x",
]
# Where a prompt ends: at a word, at a space, at a line, within a word.
PROMPTS = [
    ("The answer is", " yes"),
    ("The answer is ", "yes"),
    ("The answer is:\n", "no, near the market."),
    ("The sta", "tion"),
    ("Question? ", " two spaces"),
]
CHATS = [
    [("user", "Where is the station?")],
    [("system", "Be brief."), ("user", "Is it near?")],
    [("user", "Hello"), ("assistant", "Yes."), ("user", "{{ braces }} and\nlines")],
    [("user", "Where?"), ("assistant", " Near the market. ")],
    [("system", "Answer."), ("user", "größer?"), ("assistant", "No")],
    [("user", "one"), ("user", "two")],
    [("assistant", "first"), ("user", "then")],
]


def byte_level(prefix_space: bool = False, split: bool = False) -> Tokenizer:
    """GPT-2's kind; with `split` as Llama 3 has it: a regular expression first, bytes after it."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=split))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=not split)
    if split:
        pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        level = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + 90, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def sentence_piece(prepend: bool) -> Tokenizer:
    """Llama 2's and Gemma's kind: spaces are letters, unknown letters are bytes; Llama 2 begins texts with a space."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=140, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = sorted(model["vocab"], key=model["vocab"].get)
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    strip = [decoders.Strip(content=" ", left=1)] if prepend else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return tokenizer


def unigram() -> Tokenizer:
    """T5's kind."""
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": -2.0}
    for length, score in ((1, -6.0), (3, -5.0), (5, -4.5), (8, -4.0)):
        for line in CORPUS[:6]:
            for word in line.split():
                piece = ("▁" + word)[:length]
                pieces.setdefault(piece, score - 0.001 * len(pieces))
                pieces.setdefault(word[-length:], score - 1.0 - 0.001 * len(pieces))
    for letter in sorted(set("".join(CORPUS)) - {" ", "\n"}):
        pieces.setdefault(letter, -8.0 - 0.001 * len(pieces))
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def added(tokenizer: Tokenizer, *tokens: str) -> None:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])


def template(tokenizer: Tokenizer, single: str, *tokens: str) -> processors.TemplateProcessing:
    pairs = [(token, tokenizer.token_to_id(token)) for token in tokens]
    return processors.TemplateProcessing(single=single, pair=f"{single} {single.replace('$A', '$B')}", special_tokens=pairs)


def tokenizers() -> dict[str, dict]:
    """By name: the tokenizer, its special tokens, its chat template, and how transformers is to save that."""
    chatml = byte_level()
    added(chatml, "<|endoftext|>", "<|im_start|>", "<|im_end|>")

    llama3 = byte_level(split=True)
    llama3_tokens = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    added(llama3, *llama3_tokens)
    bos = template(llama3, "<|begin_of_text|> $A", "<|begin_of_text|>")
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])

    mistral = sentence_piece(prepend=True)
    added(mistral, "<unk>", "<s>", "</s>")
    mistral.post_processor = template(mistral, "<s> $A", "<s>")

    gemma = sentence_piece(prepend=False)
    added(gemma, "<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>")
    gemma.post_processor = template(gemma, "<s> $A", "<s>")

    t5 = unigram()
    added(t5, "<pad>", "</s>", "<unk>", "<extra_id_0>")
    t5.post_processor = template(t5, "$A </s>", "</s>")

    bart = byte_level()
    added(bart, "<s>", "<pad>", "</s>", "<unk>", "<mask>")
    ends = [(token, bart.token_to_id(token)) for token in ("</s>", "<s>")]
    bart.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)

    return {
        "chatml": {"tokenizer": chatml, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat": "chatml"},
        "thinking": {"tokenizer": chatml, "eos_token": "<|im_end|>", "chat": {"default": "thinking", "tool_use": "chatml"}},
        "llama3": {"tokenizer": llama3, "bos_token": llama3_tokens[0], "eos_token": "<|eot_id|>", "chat": "llama3"},
        "mistral": {"tokenizer": mistral, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat": "mistral"},
        "gemma": {"tokenizer": gemma, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat": "gemma"},
        "t5": {"tokenizer": t5, "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "bart": {"tokenizer": bart, "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"},
    }  # fmt: skip


def chat_of(tokenizer: PreTrainedTokenizerFast, turns: list[tuple[str, str]]) -> dict:
    """A chat, its prompt (all but a last turn of the assistant), and the whole of it, as text and as ids."""
    messages = [{"role": role, "content": content} for role, content in turns]
    asked = messages[:-1] if turns[-1][0] == "assistant" else messages
    found = {"messages": messages}
    try:
        found["prompt"] = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        found["prompt_ids"] = tokenizer(found["prompt"], add_special_tokens=False)["input_ids"]
        found["whole"] = tokenizer.apply_chat_template(messages, tokenize=False)
        found["whole_ids"] = tokenizer(found["whole"], add_special_tokens=False)["input_ids"]
    except TemplateError as refusal:
        return {"messages": messages, "error": str(refusal)}
    return found


def expected(tokenizer: PreTrainedTokenizerFast, chats: bool) -> dict:
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    pair = tokenizer("a", "b", return_token_type_ids=True)
    return {
        "special": tokenizer.special_tokens_map,
        "texts": [
            {
                "text": text,
                "ids": row,
                "decoded": tokenizer.decode(row),
                "plain": tokenizer.decode(row, skip_special_tokens=True),
            }
            for text, row in zip(TEXTS, ids)
        ],
        "pair": {"ids": pair["input_ids"], "type_ids": pair["token_type_ids"]},
        "prompts": [
            {
                "prompt": prompt,
                "completion": completion,
                "prompt_ids": tokenizer(prompt)["input_ids"],
                "joined_ids": tokenizer(prompt + completion)["input_ids"],
                "completion_ids": tokenizer(completion, add_special_tokens=False)["input_ids"],
                "labels": tokenizer(text_target=completion)["input_ids"],
            }
            for prompt, completion in PROMPTS
        ],
        "chats": [chat_of(tokenizer, turns) for turns in CHATS] if chats else [],
    }


def main() -> None:
    data = HERE / "data"
    shutil.rmtree(data, ignore_errors=True)
    for name, facts in tokenizers().items():
        chat = facts.pop("chat", None)
        names = chat if isinstance(chat, dict) else {"default": chat} if chat else {}
        sources = {key: (HERE / f"templates/{value}.jinja").read_text() for key, value in names.items()}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=facts.pop("tokenizer"), **facts)
        if sources:
            tokenizer.chat_template = sources if isinstance(chat, dict) else sources["default"]
        # Several templates go into the configuration, as many models on the hub still have them; one into its file.
        tokenizer.save_pretrained(data / name, save_jinja_files=not isinstance(chat, dict))
        written = json.dumps(json.loads((data / name / "tokenizer.json").read_text()), ensure_ascii=False)
        (data / name / "tokenizer.json").write_text(written + "\n")
        again = PreTrainedTokenizerFast.from_pretrained(data / name)
        text = json.dumps(expected(again, bool(sources)), ensure_ascii=False, indent=1)
        (data / name / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
