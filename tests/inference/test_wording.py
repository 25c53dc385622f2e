from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayeslora_tool.artifacts.manifest import WORDING_FILE
from bayeslora_tool.inference.wording import Wording, fit_wording
from bayeslora_tool.policy import Policy, decide
from tests.fakes import make_prediction

TRAIN = [f"please {verb} my {thing} now" for verb in ("freeze", "close", "open", "check")
         for thing in ("card", "account", "savings", "balance")] * 3  # fmt: skip
ODD = ["", "xylophone", "zebra", "lzn"]
HELD_OUT = [f"now {text} {ODD[i % 4]}" for i, text in enumerate(TRAIN[:16])]


@pytest.fixture(scope="module")
def fitted() -> Wording:
    return fit_wording(TRAIN, HELD_OUT)


def by_hand(counts: dict[str, int], history: str, letter: str) -> float:
    """Witten and Bell's estimate, written as its recursion."""
    shorter = 1 / 200 if not history else by_hand(counts, history[1:], letter)
    after = {g: n for g, n in counts.items() if g[:-1] == history}
    if not after:
        return shorter
    n, k = sum(after.values()), len(after)
    return (after.get(history + letter, 0) + k * shorter) / (n + k)


def test_surprises_are_those_of_the_recursion_capped(fitted: Wording) -> None:
    counts = dict(fitted.grams)
    spelled = " frozen baby "
    for i, found in enumerate(fitted.surprises("Frozen, baby!"), start=1):
        first = 1 / 200 if i < 1 else by_hand(counts, spelled[max(0, i - 4) : i], spelled[i])
        assert found == pytest.approx(min(-math.log(first), fitted.most))


def test_the_stretch_is_the_greatest_sum_of_neighbours(fitted: Wording) -> None:
    text = "please freeze zzz qqq my account"
    gains = [s - fitted.usual for s in fitted.surprises(text)]
    sums = [sum(gains[i:j]) for i in range(len(gains)) for j in range(i, len(gains) + 1)]
    assert fitted.stretch(text) == pytest.approx(max(sums))


def test_percentiles_count_the_held_out_texts_below(fitted: Wording) -> None:
    for text in ["please check my card", "now now", "bitte sperren sie das konto"]:
        below = sum(fitted.stretch(one) < fitted.stretch(text) for one in HELD_OUT)
        assert fitted.percentile(text) == below / (len(HELD_OUT) + 1)
    most = len(HELD_OUT) / (len(HELD_OUT) + 1)  # so a hundred texts are needed to reach 0.99
    assert fitted.percentile("please close my card. bitte tun sie das nicht") == most


@pytest.mark.parametrize("text", ["", "123 456 !?", "\U0001f600"])
def test_a_text_without_words_is_not_foreign(fitted: Wording, text: str) -> None:
    assert fitted.percentile(text) == 0


def test_a_text_is_most_foreign_where_training_had_no_words() -> None:
    fitted = fit_wording(["123", "!?"], HELD_OUT)
    assert fitted.stretch("please") == fitted.stretch("esaelp")


def test_case_apostrophes_and_punctuation_do_not_count(fitted: Wording) -> None:
    assert fitted.stretch("CLOSE my c'ard!!") == fitted.stretch("close my card")


def test_it_is_the_same_from_its_file(fitted: Wording, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = Wording.load(tmp_path)
    assert loaded is not None
    assert (dict(loaded.grams), loaded.usual) == (dict(fitted.grams), fitted.usual)
    assert loaded.percentile("bitte 文字 ñandú") == fitted.percentile("bitte 文字 ñandú")
    assert Wording.load(tmp_path / "nowhere") is None


@pytest.mark.parametrize("part", ["grams", "counts", "bounds", "held_out"])
def test_a_file_whose_parts_do_not_fit_is_refused(
    fitted: Wording, tmp_path: Path, part: str
) -> None:
    fitted.save(tmp_path)
    tensors = load_file(tmp_path / WORDING_FILE)
    for other in (tensors[part][:1].clone(), tensors[part].flip(0), -1 - tensors[part]):
        if part in ("counts", "grams") and other.equal(tensors[part].flip(0)):
            continue  # in another order they are still counts, or letters
        if part == "held_out" and len(other) == 1:
            continue  # so is one held-out text
        save_file({**tensors, part: other.contiguous()}, tmp_path / WORDING_FILE)
        with pytest.raises(ValueError, match=WORDING_FILE):
            Wording.load(tmp_path)
    (tmp_path / WORDING_FILE).write_bytes(b"junk")
    with pytest.raises(ValueError, match="is damaged"):
        Wording.load(tmp_path)


def test_held_out_texts_without_words_are_refused() -> None:
    with pytest.raises(ValueError, match="holds no words"):
        fit_wording(TRAIN, ["123"])


def test_held_out_percentiles_are_sorted(fitted: Wording) -> None:
    assert torch.equal(fitted.held_out, fitted.held_out.sort().values)


@pytest.mark.parametrize(
    ("foreign", "limit", "action"),
    [
        (0.99, 0.99, "proceed"),
        (0.991, 0.99, "escalate"),
        (1.0, None, "proceed"),
        (None, 0.99, "proceed"),
        (math.nan, 0.99, "escalate"),
    ],
)
def test_words_that_look_foreign_escalate(
    foreign: float | None, limit: float | None, action: str
) -> None:
    policy = Policy(tau_conf=0.8, tau_var=0.01, tau_foreign=limit)
    assert decide(make_prediction(foreign=foreign), policy).action == action
    assert Policy(tau_conf=0.8, tau_var=0.01).tau_foreign == 0.99
