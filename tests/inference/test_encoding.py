from __future__ import annotations

import json
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from bayeslora_tool.artifacts.backbone import find_backbone
from bayeslora_tool.artifacts.backbone_model import load_tokenizer
from bayeslora_tool.inference.encoding import MAX_CHARACTERS, Encoder, batches
from bayeslora_tool.training.recipe import DEFAULT_BACKBONE

MEGABYTES = 16_000_000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(find_backbone(DEFAULT_BACKBONE))


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, 512)


def unread(encoder: Encoder, text: str) -> float:
    (encoded,) = encoder.encode([text])
    return encoded.unread


class TestIds:
    def test_are_those_of_the_tokenizer(self, encoder: Encoder, tokenizer: Any) -> None:
        texts = ["what is my balance", "café “hi” 😀", "good " * 505 + "unbelievably so", "a" * 200]
        expected = tokenizer(texts, truncation=True, max_length=512)["input_ids"]
        assert [encoded.ids for encoded in encoder.encode(texts)] == expected
        assert [encoded.position for encoded in encoder.encode(texts * 30)] == list(range(120))

    def test_a_texts_own_special_token_is_words(self, encoder: Encoder, tokenizer: Any) -> None:
        (encoded,) = encoder.encode(["my [SEP] [UNK] balance"])
        assert encoded.ids.count(tokenizer.sep_token_id) == 1
        assert tokenizer.unk_token_id not in encoded.ids
        assert encoded.unread == 0

    def test_leave_the_callers_tokenizer_as_it_was(self, tokenizer: Any) -> None:
        before = tokenizer.backend_tokenizer.to_str()
        Encoder(tokenizer, 8).encode(["a good film " * 20])
        assert tokenizer.backend_tokenizer.to_str() == before

    def test_several_threads_get_what_one_gets(self, encoder: Encoder) -> None:
        texts = [["good " * n, "what is my balance " * (n % 7 + 1)] for n in range(400, 600, 5)]
        expected = [encoder.encode(some) for some in texts]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(encoder.encode, texts)) == expected

    def test_no_token_at_all_is_one_of_padding(self) -> None:
        words = Tokenizer(models.WordPiece({"a": 0, "<pad>": 1, "[UNK]": 2}))
        words.normalizer = normalizers.BertNormalizer()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
        encoder = Encoder(tokenizer, 8)
        (encoded,) = encoder.encode(["\ue000"])
        assert (encoded.ids, encoded.unread) == ([1], 1.0)
        ids, _ = encoder.tensors([encoded])
        torch.testing.assert_close(ids, torch.tensor([[1]]))


class TestUnread:
    @pytest.mark.parametrize(
        "text",
        [
            "what is my balance",
            "don't   stop\n\tnow\r\n",
            "naïve café, Ångström, cafe\u0301",
            "“quotes” — dashes \u2013 … • \u2018x\u2019 non\u2011breaking",
            "€5 £3 ¥2 ½ 5° ™ © → & § 100% #1 a@b.c ^_^ <b> $x$ `y` ~ |",
            "soft\xadhyphen zero\u200bwidth joi\u200dner \ufeff \u202eturned\u202c",
            "bell\x07 \x1b[31m red",
            "¿qué? « oui » ‽ ⁂ ※",  # the last three have no token, and are punctuation
        ],
    )
    def test_ordinary_texts_are_read_whole(self, encoder: Encoder, text: str) -> None:
        assert unread(encoder, text) == 0

    @pytest.mark.parametrize(
        ("read", "missed"),
        [
            ("what is my account balance", "อย่าทำเช่นนั้น"),
            ("freeze my bank account", "አይደለም"),
            ("a great film", "😡"),
            ("a great film", "✗"),
            ("this is", "\ue000"),  # dropped by the normalizer
            ("this is", "x" * 101),
            ("this is", "terribleawful" * 40),
            ("this is", "\uac00" * 51),  # a syllable is two letters to the tokenizer
        ],
    )
    def test_the_share_is_that_of_the_characters_skipped(
        self, encoder: Encoder, read: str, missed: str
    ) -> None:
        n_read = len(read.replace(" ", ""))
        assert unread(encoder, f"{read} {missed}!") == len(missed) / (n_read + len(missed))
        assert unread(encoder, missed) == 1

    def test_words_that_people_do_not_see_are_missed(self, encoder: Encoder) -> None:
        tags = "".join(chr(0xE0000 + ord(letter)) for letter in "cancel")
        assert unread(encoder, f"my balance {tags}") == 6 / 15

    @pytest.mark.parametrize(
        "text", ["do c\u0336a\u0336n\u0336c\u0336e\u0336l\u0336 it", "a is \u2260 b", "yes\u0338"]
    )
    def test_a_mark_that_strikes_out_is_missed_between_letters_too(
        self, encoder: Encoder, text: str
    ) -> None:
        assert 0 < unread(encoder, text) < 1

    def test_only_unknown_punctuation_is_nothing_read(self, encoder: Encoder) -> None:
        assert unread(encoder, "‽‽") == 1

    def test_what_lies_behind_the_cut_is_not_counted(self, encoder: Encoder) -> None:
        (encoded,) = encoder.encode(["good " * 600 + "😀"])
        assert (encoded.truncated, encoded.unread) == (True, 0)
        (encoded,) = encoder.encode(["😀 " + "good " * 600])
        assert encoded.truncated
        assert 0 < encoded.unread < 0.01

    def test_no_ordinary_text_is_stopped(self, encoder: Encoder, shared_data: Path) -> None:
        intents = json.loads((shared_data / "clinc150/data_full.json").read_text())
        texts = [text for part in intents.values() for text, _ in part]
        for file in ("sst2/glue_dev.tsv", "agnews/test_2000.tsv"):
            rows = (shared_data / file).read_text().splitlines()
            texts += [row.split("\t")[0] for row in rows]
        assert len(texts) > 26_000
        assert [encoded.position for encoded in encoder.encode(texts) if encoded.unread] == []


CORPUS = ["a good film", "what is my account balance", "freeze my account"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(special_tokens=["<pad>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def pieces(*, byte_fallback: bool) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<pad>", *(BYTES if byte_fallback else [])]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


MIXED = "a good film ยกเลิก 😀 c\u0336a\u0336n"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (byte_level, 0.0),
        (lambda: pieces(byte_fallback=True), 0.0),
        (lambda: pieces(byte_fallback=False), 9 / 21),
        (CanineTokenizer, 0.0),  # slow: it gives no offsets
    ],
)
def test_other_tokenizers_say_what_they_skip(make: Any, expected: float) -> None:
    encoder = Encoder(make(), 64)
    whole, mixed, long = encoder.encode(["a good  film\n", MIXED, "a good film " * 100])
    assert (whole.unread, whole.truncated) == (0, False)
    assert mixed.unread == pytest.approx(expected)
    assert (len(long.ids), long.truncated) == (64, True)


def test_a_slow_tokenizer_counts_unknown_tokens(tokenizer: Any) -> None:
    class Slow:
        """The same tokenizer without its offsets."""

        is_fast = False
        pad_token_id, eos_token_id = tokenizer.pad_token_id, None
        unk_token_id = tokenizer.unk_token_id

        def __call__(self, text: str, **options: Any) -> Any:
            return tokenizer(text, **options)

        def num_special_tokens_to_add(self) -> int:
            return int(tokenizer.num_special_tokens_to_add())

    slow: Any = Slow()
    texts = ["a great film 😡", "good " * 600, "what is my balance", "😡", "\ue000"]
    shares = [0.25, 0, 0, 1, 1]
    encoded = Encoder(slow, 512).encode(texts)
    assert [one.unread for one in encoded] == shares
    assert [one.truncated for one in encoded] == [False, True, False, False, False]
    assert [one.ids for one in encoded] == [
        one.ids for one in Encoder(tokenizer, 512).encode(texts)
    ]


class TestLongTexts:
    @pytest.mark.parametrize("unit", ["freeze my account ", "x", "😀 ", "a\n\n", "\u200b", ". "])
    def test_sixteen_megabytes_cost_little_time_and_memory(
        self, encoder: Encoder, unit: str
    ) -> None:
        text = "hello " + unit * (MEGABYTES // len(unit))
        tracemalloc.start()
        began = time.process_time()
        (encoded,) = encoder.encode([text])
        spent = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert encoded.truncated
        assert spent < 3
        assert peak < 20e6

    def test_many_in_one_call_cost_no_more_each(self, encoder: Encoder) -> None:
        texts = ["freeze my account " * 50_000] * 100
        began = time.process_time()
        encoded = encoder.encode(texts)
        assert time.process_time() - began < 10
        assert all(one.truncated and len(one.ids) == 512 for one in encoded)

    def test_one_that_is_mostly_white_space_is_read_whole(self, encoder: Encoder) -> None:
        spaced, plain = encoder.encode(
            ["freeze" + " \n" * 3_000_000 + "my account" + "\t" * 3_000_000, "freeze my account"]
        )
        assert spaced.ids == plain.ids
        assert not spaced.truncated

    def test_a_word_behind_the_white_space_counts(self, encoder: Encoder) -> None:
        text = "good " * 500 + " " * 100_000 + "but " * 20
        (encoded,) = encoder.encode([text])
        assert encoded.truncated

    def test_a_model_without_a_limit_has_one_here(self) -> None:
        encoder = Encoder(byte_level(), 10**30)
        (encoded,) = encoder.encode(["a good film " * 200_000])
        assert encoder.max_characters == MAX_CHARACTERS
        assert encoded.truncated


def test_the_text_that_cannot_be_read_is_named(encoder: Encoder) -> None:
    texts = ["a good film"] * 70
    texts[50] = "\u200b\xad"
    with pytest.raises(ValueError, match=r"^texts\[50\] holds only control or invisible"):
        encoder.encode(texts)


def test_batches_keep_each_text_once_and_to_the_budget(encoder: Encoder) -> None:
    encoded = encoder.encode(["good " * n for n in range(1, 300, 3)])
    found = list(batches(encoded, 1000))
    assert sorted(one.position for batch in found for one in batch) == list(range(100))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(len(one.ids) for one in batch) <= 1000
