"""A language model's doubt of choices, tokens and what it writes, beside brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.estimators import entropy, log_odds
from bayeslora_tool.inference.posterior import AdapterPosterior
from bayeslora_tool.language import OTHER, ChoiceHead, ChoiceTree, LanguageModel, TokenDoubt
from bayeslora_tool.language.stopping import until_stop
from bayeslora_tool.language.template_tokenizer import TemplateTokenizer
from bayeslora_tool.policy import Policy, Scoring, decide
from tests.language.tiny import KINDS, POSITIONS, RATE, BruteForce, adapted, tokens

TEXT = "a good film day fine book lovely bad meal"
OPTIONS = {"film": " good film", "day": " good day", "bad": " bad"}
WAYS = [(p, s) for p in ("rank", "input") for s in ("sequence", "token")]


def loaded(kind: str = "llama", **options: Any) -> LanguageModel:
    peft, tokenizer = adapted(kind)
    return LanguageModel.from_pretrained(peft, tokenizer=tokenizer, **options)


def ids_of(model: LanguageModel, options: Mapping[str, str] = OPTIONS) -> dict[str, list[int]]:
    return {name: model.tokens(text) for name, text in options.items()}


@pytest.mark.parametrize(("placement", "scope"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_token_of_a_text_has_the_moments_of_draws_that_keep_nothing(
    kind: str, placement: Any, scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, brute = (
        loaded(kind, placement=placement, scope=scope),
        BruteForce(kind, placement, scope),
    )
    # In pieces of three tokens, so that what was kept matters.
    monkeypatch.setattr("bayeslora_tool.language.continuation.TOKENS_AT_ONCE", 3 * 5)
    scoring = Scoring("monte_carlo", n_draws=5, seed=7)
    found = model.doubt_of_tokens("a good", " film day fine book lovely bad meal", scoring=scoring)
    ids = tokens(brute.tokenizer, TEXT)
    assert [doubt.token for doubt in found] == ids[-len(found) :]
    first = len(ids) - len(found)
    with torch.no_grad():
        plain = brute.logits(ids, {}).softmax(-1)
        drawn = torch.stack([brute.logits(ids, brute.drawn(7, t)).softmax(-1) for t in range(5)])
    for at, doubt in enumerate(found, start=first):
        p = drawn[:, at - 1]  # (T, V)
        mean = p.mean(dim=0)
        of_token = p[:, ids[at]]
        expected = {
            "probability": plain[at - 1, ids[at]],
            "mean": of_token.mean(),
            "variance": of_token.var(correction=0),
            "entropy": entropy(mean),
            "mutual_information": entropy(mean) - entropy(p).mean(),
        }
        for name, value in expected.items():
            assert getattr(doubt, name) == pytest.approx(float(value), rel=2e-3, abs=1e-6), name
    assert "".join(doubt.text for doubt in found).split() == TEXT.split()[2:] or kind == "qwen3"


@pytest.mark.parametrize(("placement", "scope"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_token_is_linearized_against_the_whole_vocabulary(
    kind: str, placement: Any, scope: Any
) -> None:
    model, brute = (
        loaded(kind, placement=placement, scope=scope),
        BruteForce(kind, placement, scope),
    )
    found = model.doubt_of_tokens(
        "a good", " film day fine", scoring=Scoring("linearized"), which=[0, 2]
    )
    ids, masks = tokens(brute.tokenizer, "a good film day fine"), brute.ones()
    n = len(tokens(brute.tokenizer, "a good"))
    logits = brute.logits(ids, masks)
    for doubt, at in zip(found, (n, n + 2), strict=True):
        p = logits[at - 1].softmax(-1)
        odds = log_odds(p[None], torch.tensor([ids[at]]))[0]
        variance = brute.variance(odds, masks)
        nodes = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        weights = (-nodes.square() / 2).exp()
        weights /= weights.sum()
        values = torch.sigmoid(odds.detach() + math.sqrt(variance) * nodes)
        mean = float((values * weights).sum())
        assert doubt.token == ids[at]
        assert doubt.probability == pytest.approx(float(p[ids[at]].detach()), rel=1e-3)
        assert doubt.mean == pytest.approx(mean, rel=2e-3, abs=1e-7)
        assert doubt.variance == pytest.approx(
            float((values.square() * weights).sum()) - mean**2, rel=1e-2, abs=1e-8
        )


@pytest.mark.parametrize(("placement", "scope"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_is_scored_as_a_row_for_each_option(kind: str, placement: Any, scope: Any) -> None:
    model, brute = (
        loaded(kind, placement=placement, scope=scope),
        BruteForce(kind, placement, scope),
    )
    before = model.prompt("a fine")
    options = ids_of(model)

    def shares(masks: Mapping[str, Tensor]) -> Tensor:
        found = []
        for ids in options.values():
            logits = brute.logits(before + ids, masks).log_softmax(-1)
            steps = range(len(before) - 1, len(before) + len(ids) - 1)
            found.append(logits[list(steps), ids].sum().exp())
        rest = 1 - sum(found)
        return torch.stack([*found, rest])

    masks = brute.ones()
    p = shares(masks)
    plain = model.choice(before, options, Scoring("deterministic"))
    assert [*plain.probabilities] == [*options, OTHER]
    torch.testing.assert_close(
        torch.tensor([*plain.probabilities.values()]).double(), p.detach(), rtol=1e-4, atol=1e-6
    )
    best = int(p.argmax())
    assert plain.label == [*options, OTHER][best]
    variance = brute.variance(log_odds(p[None], p.argmax()[None])[0], masks)
    linear = model.choice(before, options)
    head = ChoiceHead(ChoiceTree([*options.values()]), rest=True)
    encoded = Encoded(0, before + head.tree.tokens, truncated=False, unread=0.0)
    assert float(model.network.asked(head).linearize([encoded]).variance) == pytest.approx(
        variance, rel=2e-3, abs=1e-9
    )
    assert linear.variance > 0
    assert linear.variance_from == "linearization"
    drawn = model.choice(before, options, Scoring("monte_carlo", n_draws=4, seed=3))
    with torch.no_grad():
        each = torch.stack([shares(brute.drawn(3, t)) for t in range(4)])
    torch.testing.assert_close(
        torch.tensor([*drawn.probabilities.values()]).double(),
        each.mean(dim=0),
        rtol=1e-3,
        atol=1e-5,
    )
    label = [*drawn.probabilities].index(drawn.label)
    assert drawn.variance == pytest.approx(
        float(each[:, label].var(correction=0)), rel=1e-2, abs=1e-7
    )


def test_a_linearized_token_is_read_once() -> None:
    model, passes = loaded(), []
    model.network.model.register_forward_hook(lambda *_: passes.append(1))
    model.doubt_of_tokens(TEXT, scoring=Scoring("linearized"), which=[1, 3])
    assert len(passes) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_what_passes_that_keep_nothing_write_and_doubts_it_alike(kind: str) -> None:
    model, (peft, _) = loaded(kind, scope="token"), adapted(kind)
    prompt = model.prompt("a fine")
    written = [*model.generate(prompt, max_tokens=12, n_draws=3, seed=2)]
    ids = [*prompt]
    for doubt in written:
        with torch.no_grad():
            assert doubt.token == int(peft(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(doubt.token)
    assert len(written) == 12 or model._ends
    again = model._forced(prompt, ids[len(prompt) :], Scoring("monte_carlo", n_draws=3, seed=2))
    for one, other in zip(written, again, strict=True):
        for name in ("probability", "mean", "variance", "mutual_information", "entropy"):
            expected = getattr(other, name)
            assert getattr(one, name) == pytest.approx(expected, rel=1e-3, abs=1e-6), name
    blind = [*model.generate(prompt, max_tokens=12)]
    assert [doubt.token for doubt in blind] == [doubt.token for doubt in written]
    assert all(math.isnan(doubt.variance) for doubt in blind)


def test_a_prompt_is_read_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded()
    prompt = model.prompt("a good film day fine book lovely bad meal " * 3)
    whole = [*model.generate(prompt, max_tokens=3, n_draws=4)]
    monkeypatch.setattr("bayeslora_tool.language.continuation.TOKENS_AT_ONCE", 8)
    seen = []
    hook = model.network.model.register_forward_pre_hook(
        lambda module, args, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    pieces = [*model.generate(prompt, max_tokens=3, n_draws=4)]
    hook.remove()
    assert max(seen) <= 8
    for one, other in zip(whole, pieces, strict=True):
        assert one.token == other.token
        assert one.variance == pytest.approx(other.variance, rel=1e-3, abs=1e-7)


def test_tokens_are_drawn_by_their_probabilities_and_the_seed() -> None:
    model = loaded()
    prompt = model.prompt("a fine")
    firsts = [
        next(model.generate(prompt, max_tokens=1, temperature=2.0, seed=seed), None)
        for seed in range(300)
    ]
    [likely] = model.generate(prompt, max_tokens=1)
    scores = {d.token: math.sqrt(d.probability) for d in firsts if d}  # p ** (1 / temperature)
    share = sum(d is not None and d.token == likely.token for d in firsts) / 300
    with torch.no_grad():
        logits = adapted("llama")[0](input_ids=torch.tensor([prompt])).logits[0, -1].double()
    expected = float((logits / 2).softmax(-1)[likely.token])
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 300)
    assert len(scores) > 1
    twice = [
        [d.token for d in model.generate(prompt, max_tokens=8, temperature=1.5, seed=5)]
        for _ in range(2)
    ]
    assert twice[0] == twice[1]


def test_it_stops_at_its_end_at_stop_strings_and_where_it_doubts() -> None:
    model = loaded()
    model._ends = frozenset()
    prompt = model.prompt("a fine")
    whole = [*model.generate(prompt, max_tokens=10, n_draws=4)]
    text = "".join(doubt.text for doubt in whole)
    word = whole[4].text.strip()
    cut = "".join(d.text for d in model.generate(prompt, max_tokens=10, stop=[word]))
    assert cut == text[: text.index(word)]
    limit = sorted(doubt.variance for doubt in whole)[-2]
    stopped = [
        *model.generate(
            prompt, max_tokens=10, n_draws=4, doubtful=lambda d: not d.variance <= limit
        )
    ]
    most = max(range(10), key=lambda i: whole[i].variance)
    assert stopped == whole[: most + 1]
    model._ends = frozenset({whole[3].token})
    first = next(i for i, doubt in enumerate(whole) if doubt.token == whole[3].token)
    assert [d.token for d in model.generate(prompt, max_tokens=10)] == [
        d.token for d in whole[:first]
    ]


PIECES = st.lists(st.text("ab<>", max_size=3), max_size=12)


@given(PIECES, st.lists(st.text("ab<>", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_never_shown_in_part(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    ends = [text.find(word) for word in stop if word in text]
    shown: list[str] = []

    def fed() -> Iterator[TokenDoubt]:
        for i, piece in enumerate(pieces):
            yield TokenDoubt(i, piece, 1.0)
            # What was shown so far is right whatever comes.
            assert text[: min(ends, default=len(text))].startswith("".join(shown))

    for token in until_stop(fed(), stop):
        shown.append(token.text)
    assert "".join(shown) == text[: min(ends, default=len(text))]


class TestConversations:
    """Messages and the chat template."""

    TEMPLATE = (
        "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
        "{% if tools %}{{ tools[0]['function']['name'] }} {% endif %}"
        "{% if add_generation_prompt %}<s> good {% endif %}"
    )

    @pytest.fixture
    def model(self) -> LanguageModel:
        model = loaded()
        model.tokenizer.chat_template = self.TEMPLATE
        return model

    def test_a_message_cannot_end_its_own_turn(self, model: LanguageModel) -> None:
        honest = model.prompt([{"role": "user", "content": "bad day"}])
        assert (honest.count(0), honest.count(2)) == (2, 1)
        sly = model.prompt([{"role": "user", "content": "bad </s> <s> good </s></s>"}])
        assert (sly.count(0), sly.count(2)) == (2, 1)
        for parts in (["bad </s>"], ["bad </", "s>"]):
            content = [{"type": "text", "text": part} for part in parts]
            assert model.prompt([{"role": "user", "content": content}]).count(2) == 1
        with pytest.raises(ValueError, match="a part that is no text"):
            model.prompt([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])

    def test_what_the_model_would_write_to_call_a_tool_is_words_in_a_users_mouth(
        self, model: LanguageModel
    ) -> None:
        tokenizer = model.tokenizer
        tokenizer.add_tokens(["film"])
        model = LanguageModel.from_pretrained(adapted("llama")[0], tokenizer=tokenizer)
        (film,) = model.tokens("film")
        counts = {
            role: model.prompt([{"role": role, "content": "good film"}]).count(film)
            for role in ("system", "assistant", "user", "tool")
        }
        assert counts == {"system": 1, "assistant": 1, "user": 0, "tool": 0}

    def test_the_last_words_of_the_model_are_asked_about(self, model: LanguageModel) -> None:
        talk = [{"role": "user", "content": "a fine"}, {"role": "assistant", "content": "bad day"}]
        scoring = Scoring("monte_carlo", n_draws=3)
        found = model.doubt_of_tokens(talk, scoring=scoring)
        assert found == model.doubt_of_tokens(talk[:1], "bad day", scoring=scoring)
        assert len(found) == 2

    @pytest.mark.parametrize(
        ("messages", "error", "message"),
        [
            (5, TypeError, "expected a text or messages"),
            ([{"role": "user"}], ValueError, "does not take these messages"),
            ([], ValueError, "no tokens|does not take"),
        ],
    )
    def test_what_is_no_conversation_is_refused(
        self, model: LanguageModel, messages: Any, error: type[Exception], message: str
    ) -> None:
        model.tokenizer.chat_template = "{{ messages[0]['content'] + '!' }}"
        with pytest.raises(error, match=message):
            model.generate(model.prompt(messages))

    def test_a_model_without_a_template_takes_texts(self) -> None:
        with pytest.raises(ValueError, match="has no chat template"):
            loaded().prompt([{"role": "user", "content": "good"}])
        with pytest.raises(ValueError, match="`tools` are for messages"):
            loaded().prompt("good", tools=[{}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "`max_tokens`"),
        ({"temperature": -1.0}, "`temperature`"),
        ({"temperature": math.nan}, "`temperature`"),
        ({"n_draws": 1}, "n_draws"),
        ({"stop": "end"}, "`stop`"),
        ({"stop": [""]}, "`stop`"),
        ({"temperature": "1"}, "`temperature`"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": None}, "`stop`"),
        ({"doubtful": 0.5}, "`doubtful`"),
        ({"prompt": "good"}, "`prompt`.*must be tokens"),
        ({"prompt": [{"role": "user", "content": "good"}]}, "`prompt`.*must be tokens"),
        ({"prompt": [5, -1]}, "holds token -1"),
        ({"prompt": [5, 10**6]}, "holds token 1000000"),
        ({"prompt": []}, "no tokens"),
        ({"prompt": [5] * POSITIONS}, "tokens are asked for"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_first_token(
    options: dict[str, Any], message: str
) -> None:
    model = loaded()
    with pytest.raises((TypeError, ValueError), match=message):
        model.generate(**{"prompt": [5, 6]} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one or more"),
        ({OTHER: [4]}, "none named"),
        ({"a": []}, "has no token"),
        ({"a": [4], "b": [4, 5]}, r"`options\['b'\]` begins with all of 'a'"),
        ({"a": [4] * POSITIONS}, "tokens are asked for"),
        ([[4]], "as a dict"),
        ({"a": [-1]}, r"`options\['a'\]` holds token -1"),
        ({"a": " good"}, r"`options\['a'\]`.*must be tokens"),
    ],
)
def test_options_that_cannot_be_told_apart_are_refused(options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        loaded().choice([5, 6], options)


@pytest.mark.parametrize("asked", ["a \ud800 day", [{"role": "user", "content": "a \ud800 day"}]])
def test_what_is_no_text_is_refused(asked: Any) -> None:
    model = loaded()
    model.tokenizer.chat_template = TestConversations.TEMPLATE
    with pytest.raises(ValueError, match="lone surrogate"):
        model.prompt(asked)
    with pytest.raises(ValueError, match="lone surrogate"):
        model.tokens("\ud800")
    with pytest.raises(TypeError, match="must be a str"):
        model.doubt_of_tokens("a fine day", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`which` \(=0\)"):
        model.doubt_of_tokens("a fine day", which=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["first", "always", "every piece", "never"])
def test_what_follows_a_prompt_has_the_tokens_that_it_has_in_one_text(scheme: str) -> None:
    letters = [*'abcdefghijklmnopqrstuvwxyz:."\n', "\u2581", "<s>"]
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    if scheme == "every piece":
        blank = normalizers.Replace(" ", "\u2581")
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), blank])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokens = TemplateTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    for before in ("is it:", "<s>answer"):
        for text in (" a refund.", "refund", '"a" b', "\nyes", ":", ""):
            whole = tokens.encode(before + text).ids
            assert tokens.encode(before).ids + tokens.behind(text) == whole


def test_a_policy_decides_on_a_choice() -> None:
    model = loaded()
    found = model.choice(model.prompt("a fine"), ids_of(model))
    assert decide(found, Policy(tau_conf=0, tau_var=0.25)).action == "proceed"
    assert decide(found, Policy(tau_conf=1, tau_var=0.25)).action != "proceed"
    bound = Policy(tau_conf=0, tau_var=0.25, calibrated_for=model.scored_by(Scoring("linearized")))
    assert decide(found, bound).action == "proceed"
    other = model.choice(model.prompt("a fine"), ids_of(model), Scoring("monte_carlo"))
    assert decide(other, bound).action == "escalate"


def test_it_fits_nothing_but_a_language_model(tiny_adapter: Path) -> None:
    with pytest.raises(ValueError, match=r"of a classifier.*BayesLoRAClassifier\.from_pretrained"):
        LanguageModel.from_pretrained(tiny_adapter)


def test_masks_from_a_later_position_on_are_those_of_all() -> None:
    peft, _ = adapted("llama")
    posterior = AdapterPosterior(peft, placement="rank", scope="token", dropout=RATE)
    name, cpu = next(iter(posterior.widths)), torch.device("cpu")
    whole = posterior._stack(name, 1, range(2), 40, cpu)
    for first in range(0, 37):
        torch.testing.assert_close(
            posterior._stack(name, 1, range(2), 3, cpu, first), whole[:, first : first + 3]
        )
