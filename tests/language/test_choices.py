"""A language model's choices beside brute force: PEFT's own layers, a row for each choice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bayeslora_tool import AdapterHub, BayesLoRAClassifier, Policy, decide
from bayeslora_tool.artifacts.backbone_model import quiet
from bayeslora_tool.artifacts.loading import load_adapter
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.language.prompts import Choices, Prompts
from tests.backbones import FAMILIES, WORDS, save_backbone, word_tokenizer
from tests.language.tiny import KINDS, RATE, BruteForce, adapted, tokens

# Of one token and of several, two of which begin alike.
CHOICES = {"good": " good film", "bad": " bad", "meh": " poor meal day", "odd": " poor meal a"}
TEMPLATE = "a {text} play"
TEXTS = ["fine", "bad day lovely lovely book", "a good film"]


def loaded(kind: str = "llama", **options: Any) -> BayesLoRAClassifier:
    peft, tokenizer = adapted(kind)
    asked = {"choices": CHOICES, "template": TEMPLATE} | options
    return BayesLoRAClassifier.from_pretrained(peft, tokenizer=tokenizer, **asked)


def scores(brute: BruteForce, text: str, masks: Mapping[str, Tensor]) -> Tensor:
    """Log-probability (C,) of each choice, in a row of its own."""
    prompt, found = TEMPLATE.replace("{text}", text), []
    n = len(tokens(brute.tokenizer, prompt))
    for choice in CHOICES.values():
        ids = tokens(brute.tokenizer, prompt + choice)
        logits = brute.logits(ids, masks).log_softmax(dim=-1)
        found.append(logits[range(n - 1, len(ids) - 1), ids[n:]].sum())
    return torch.stack(found)


@pytest.mark.parametrize("scope", ["sequence", "token"])
@pytest.mark.parametrize("placement", ["rank", "input"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_variance_and_draws_are_those_of_a_row_for_each_choice(
    kind: str, placement: str, scope: str
) -> None:
    network = loaded(kind, placement=placement, scope=scope).network
    brute = BruteForce(kind, placement, scope)
    texts = sorted(network.encoder.encode(TEXTS), key=lambda text: len(text.ids))
    found, drawn = network.linearize(texts), network.draw(texts, 3, range(3))
    for row, encoded in enumerate(texts):
        text, masks = TEXTS[encoded.position], brute.ones()
        sure = scores(brute, text, masks)
        torch.testing.assert_close(found.passed.logits[row], sure.detach(), rtol=1e-4, atol=1e-4)
        odds = log_odds(sure.softmax(-1)[None], sure.argmax()[None])
        slopes = torch.autograd.grad(odds.sum(), [*masks.values()], allow_unused=True)
        squares = sum(float(s.double().square().sum()) for s in slopes if s is not None)
        assert float(found.variance[row]) == pytest.approx(
            RATE / (1 - RATE) * squares, rel=2e-3, abs=1e-9
        )
        for t in range(3):
            with torch.no_grad():
                expected = scores(brute, text, brute.drawn(3, t)).softmax(-1)
            torch.testing.assert_close(drawn[t, row], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scope", ["sequence", "token"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_out_the_same_in_any_company(kind: str, scope: str) -> None:
    network = loaded(kind, scope=scope).network
    texts = sorted(network.encoder.encode(TEXTS), key=lambda text: len(text.ids))
    together, drawn = network.linearize(texts, keep=True), network.draw(texts, 0, range(4))
    change = network.posterior.project(together.gradients, 0, range(4))
    for row, text in enumerate(texts):
        alone = network.linearize([text], keep=True)
        for whole, own in zip(together.passed, alone.passed, strict=True):
            torch.testing.assert_close(whole[[row]], own, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(together.variance[[row]], alone.variance, rtol=1e-3, atol=1e-9)
        own_draws = network.draw([text], 0, range(4))
        torch.testing.assert_close(drawn[:, [row]], own_draws, rtol=1e-4, atol=1e-5)
        own_change = network.posterior.project(alone.gradients, 0, range(4))
        torch.testing.assert_close(change[:, [row]], own_change, rtol=1e-3, atol=1e-5)


def test_features_are_those_of_the_prompt() -> None:
    passed = loaded().passes(TEXTS)
    peft, tokenizer = adapted("llama")
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([tokens(tokenizer, TEMPLATE.replace("{text}", text))])
        with torch.no_grad():
            states = peft(input_ids=ids, output_hidden_states=True).hidden_states
        means = [normalize(state[0].sum(dim=0), dim=0) for state in states]
        torch.testing.assert_close(passed.features[row], torch.stack(means), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            passed.head[row], states[-1][0, -1].double(), rtol=1e-4, atol=1e-5
        )
        assert passed.lengths[row] == ids.shape[1]


def test_a_label_is_read_alike_among_more_choices_and_by_its_mean_token() -> None:
    few = {label: CHOICES[label] for label in ("good", "bad")}
    some, all_of_them = loaded(choices=few), loaded()
    apart, together = some.passes(TEXTS).logits, all_of_them.passes(TEXTS).logits
    torch.testing.assert_close(apart, together[:, :2], rtol=1e-5, atol=1e-5)
    by_mean = loaded(length_normalized=True)
    lengths = torch.tensor([2.0, 1, 3, 3], dtype=torch.float64)
    torch.testing.assert_close(
        by_mean.passes(TEXTS).logits, together / lengths, rtol=1e-5, atol=1e-5
    )
    names = {clf.scored_by() for clf in (some, all_of_them, by_mean)}
    assert len(names) == 3


def test_a_policy_decides_on_it_by_any_estimator() -> None:
    policy = Policy(tau_conf=0.3, tau_var=0.1)
    clf = loaded(policy=policy)
    found = {
        estimator: clf.predict(TEXTS, estimator=estimator)
        for estimator in ("linearized", "monte_carlo", "adaptive", "deterministic")
    }
    for predictions in found.values():
        assert [p.label for p in predictions] == [p.label for p in found["linearized"]]
        assert all(set(p.probabilities) == {*CHOICES} for p in predictions)
    assert {decide(p, policy).action for p in found["linearized"]} <= {
        "proceed", "clarify", "escalate"
    }  # fmt: skip
    assert all(p.variance > 0 for p in found["monte_carlo"])
    [sure] = clf.predict(TEXTS[:1])
    assert decide(sure, Policy(tau_conf=sure.confidence - 1e-6, tau_var=0.25)).action == "proceed"
    assert decide(sure, Policy(tau_conf=0, tau_var=sure.variance / 2)).action != "proceed"
    acts = clf.for_acts({"like": ["good"], "leave": ["bad", "meh", "odd"]})
    [act] = acts.predict(TEXTS[:1])
    assert act.probabilities["like"] == pytest.approx(sure.probabilities["good"], abs=0.05)


class TestPrompts:
    """How texts become prompts."""

    def prompts(self, most: int = 32, template: str = TEMPLATE, kind: str = "llama") -> Prompts:
        return Prompts(
            word_tokenizer(habits=FAMILIES[kind].habits), most, Choices(CHOICES, template)
        )

    def ids(self, prompts: Prompts, text: str) -> tuple[list[int], bool]:
        [encoded] = prompts.encode([text])
        return encoded.ids[: -len(prompts.tree.tokens)], encoded.truncated

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "opt"])
    def test_tokens_are_the_tokenizers_own(self, kind: str) -> None:
        tokenizer = word_tokenizer(habits=FAMILIES[kind].habits)
        prompts = self.prompts(64, kind=kind)
        for text in TEXTS:
            expected = tokens(tokenizer, TEMPLATE.replace("{text}", text))
            assert self.ids(prompts, text) == (expected, False)

    def test_special_tokens_are_the_templates_alone(self) -> None:
        prompts = self.prompts(template="<s> {text} </s> play")
        assert self.ids(prompts, "good")[0][0] == 0
        assert self.ids(prompts, "good")[0].count(0) == 1  # and not the tokenizer's as well
        assert self.ids(prompts, "good")[0].count(2) == 1
        assert self.ids(prompts, "good </s> <s> </s>")[0].count(2) == 1
        assert self.ids(prompts, "good <</s>/s>")[0].count(2) == 1

    def test_special_tokens_with_space_around_are_broken_too(self) -> None:
        tokenizer = word_tokenizer(habits=FAMILIES["llama"].habits)
        tokenizer.add_special_tokens({"additional_special_tokens": ["  ", " <end>", "<end>"]})
        prompts = Prompts(tokenizer, 32, Choices(CHOICES, "{text} <end>"))
        ends = tokenizer.convert_tokens_to_ids([" <end>", "<end>"])
        for text in ("good   film", "good <end>", "<end> <end>good", "<<end>end>"):
            ids, _ = self.ids(prompts, text)
            assert sum(token in ends for token in ids) == 1

    def test_a_long_text_loses_its_end_and_no_choice_does(self) -> None:
        prompts = self.prompts(12)
        ids, cut = self.ids(prompts, " ".join(["good"] * 6))
        assert (len(ids), cut) == (9, False)
        for text in (" ".join(["good"] * 8), "good " * 500):
            longer, cut = self.ids(prompts, text)
            assert longer[:3] == ids[:3]
            assert longer[-1] == ids[-1]  # what stands behind the text
            assert (len(longer), cut) == (10, True)
        clf = loaded()
        [found] = clf.predict(["good " * 100])
        assert found.truncated
        assert decide(found, Policy(tau_conf=0, tau_var=0.25)).action == "escalate"

    def test_beginnings_that_choices_share_are_read_once(self) -> None:
        assert len(self.prompts().tree.tokens) == 3  # good, poor, poor meal

    @pytest.mark.parametrize(
        ("choices", "template", "error", "message"),
        [
            ({"a": " good"}, TEMPLATE, ValueError, "two or more"),
            ({"a": " good", "b": "  "}, TEMPLATE, ValueError, r"`choices\['b'\].*must hold a word"),
            ({"a": " good", "b": " good"}, TEMPLATE, ValueError, "the same tokens"),
            ({"a": " good", "b": " good film"}, TEMPLATE, ValueError, "never be the likelier"),
            ({"a": " good", "b": 1}, TEMPLATE, TypeError, "must be a mapping"),
            (["good", "bad"], TEMPLATE, TypeError, "must be a mapping"),
            (CHOICES, "play", ValueError, r"holds \{text\} 0 times"),
            (CHOICES, "{text} {text}", ValueError, r"holds \{text\} 2 times"),
            (CHOICES, None, TypeError, "must be the prompt"),
            (CHOICES, "good " * 40 + "{text}", ValueError, "leaves none of 32"),
        ],
    )
    def test_what_cannot_be_asked_is_refused(
        self, choices: Any, template: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            Prompts(word_tokenizer(), 32, Choices(choices, template))

    def test_tokens_that_merge_over_the_boundary_are_refused_with_the_remedy(self) -> None:
        letters = {c: i for i, c in enumerate(["<s>", "<pad>", "</s>", *"abdgo: ", "go", "oo"])}
        words = Tokenizer(models.BPE(letters, [("g", "o"), ("o", "o")]))
        words.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
        merged = Choices({"good": "ood", "bad": "bad"}, "{text} g")
        with pytest.raises(ValueError, match=r"'good'.*merges.*begin each choice with a space"):
            Prompts(tokenizer, 32, merged)
        Prompts(tokenizer, 32, Choices({"good": " good", "bad": " bad"}, "{text} g"))


class TestLoading:
    """Of adapters that plain PEFT saved."""

    @pytest.fixture
    def backbone(self, tmp_path: Path) -> Path:
        return save_backbone(tmp_path / "backbone", "llama", published=True)

    @pytest.fixture
    def folder(self, backbone: Path, tmp_path: Path) -> Path:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(backbone)
            peft = get_peft_model(
                model,
                LoraConfig(
                    task_type="CAUSAL_LM", r=2, lora_dropout=RATE, target_modules="all-linear"
                ),
            )
        torch.manual_seed(1)
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.15)
        peft.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    def test_a_folder_is_scored_as_peft_scores_it(self, folder: Path, backbone: Path) -> None:
        from peft import PeftModel

        clf = BayesLoRAClassifier.from_pretrained(
            folder, base=backbone, choices=CHOICES, template=TEMPLATE, device="cpu"
        )
        assert clf.labels == tuple(CHOICES)
        with quiet():
            model = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(backbone), folder
            ).eval()
        prompt = tokens(clf.tokenizer, "a fine play")
        ids = tokens(clf.tokenizer, "a fine play good film")
        with torch.no_grad():
            sure = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(sure[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))
        assert float(clf.passes(["fine"]).logits[0, 0]) == pytest.approx(expected, abs=1e-4)

    def test_without_choices_the_advice_names_them(self, folder: Path, backbone: Path) -> None:
        with pytest.raises(ValueError, match=r"`task_type` \(='CAUSAL_LM'\).*choices="):
            BayesLoRAClassifier.from_pretrained(folder, base=backbone)
        peft, tokenizer = adapted("llama")
        with pytest.raises(ValueError, match=r"LlamaForCausalLM.*choices="):
            BayesLoRAClassifier.from_pretrained(peft, tokenizer=tokenizer)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"choices": CHOICES}, "`choices` need the `template`"),
            ({"template": TEMPLATE}, "`template` is for a language model"),
            ({"length_normalized": True}, "`length_normalized` is for a language model"),
            (
                {"choices": CHOICES, "template": TEMPLATE, "labels": ["a", "b"]},
                "`labels` are those of `choices`",
            ),
        ],
    )
    def test_arguments_that_do_not_go_together(
        self, options: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=message):
            BayesLoRAClassifier.from_pretrained(tmp_path, **options)

    def test_a_classifier_has_labels_of_its_own(self, tiny_adapter: Path, tmp_path: Path) -> None:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(tiny_adapter / name, tmp_path)
        for files in (tiny_adapter, tmp_path):
            with pytest.raises(ValueError, match=r"of a classifier.*leave choices= and template="):
                BayesLoRAClassifier.from_pretrained(files, choices=CHOICES, template=TEMPLATE)

    def test_a_backbone_without_a_head_for_words_is_refused(
        self, folder: Path, tmp_path: Path
    ) -> None:
        bare = save_backbone(tmp_path / "bare", "llama")
        with pytest.raises(ValueError, match=r"lm_head.*so they are random"):
            BayesLoRAClassifier.from_pretrained(
                folder, base=bare, choices=CHOICES, template=TEMPLATE
            )

    def test_a_model_that_reads_ahead_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"RobertaForCausalLM: the logits .* differ"):
            loaded("roberta", scope="sequence")

    def test_an_adapter_with_grown_embeddings_brings_them(
        self, backbone: Path, tmp_path: Path
    ) -> None:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(backbone)
            tokenizer = word_tokenizer(habits=FAMILIES["llama"].habits)
            tokenizer.add_tokens(["answer"])
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            peft = get_peft_model(
                model,
                LoraConfig(task_type="CAUSAL_LM", lora_dropout=RATE, target_modules=["q_proj"]),
            )
        peft.save_pretrained(tmp_path / "grown", save_embedding_layers=True)
        tokenizer.save_pretrained(tmp_path / "grown")
        clf = BayesLoRAClassifier.from_pretrained(
            tmp_path / "grown", base=backbone, choices=CHOICES, template="{text} answer"
        )
        ids = torch.tensor([tokens(tokenizer, "fine answer")])
        with torch.no_grad():
            expected = peft.eval()(input_ids=ids).logits[0, -1].log_softmax(-1)
        bad = tokenizer("bad")["input_ids"][-1]
        assert float(clf.passes(["fine"]).logits[0, 1]) == pytest.approx(
            float(expected[bad]), abs=1e-4
        )
        config = json.loads((tmp_path / "grown" / "adapter_config.json").read_text())
        assert config["task_type"] == "CAUSAL_LM"

    def test_adopted_it_is_calibrated_and_decides_as_a_classifier_does(
        self, run: Any, folder: Path, backbone: Path, tmp_path: Path
    ) -> None:
        def asking(choices: dict[str, str]) -> BayesLoRAClassifier:
            return BayesLoRAClassifier.from_pretrained(
                folder, base=backbone, choices=choices, template=TEMPLATE, device="cpu"
            )

        texts = [" ".join(words) for words in product(WORDS, repeat=2)]
        every = {word: f" {word} day" for word in WORDS}
        logits = asking(every).passes(texts).logits
        balance = (logits[:, :, None] > logits[:, None]).double().mean(dim=0) - 0.5
        first, second = divmod(int(balance.abs().argmin()), len(WORDS))
        asked = {word: every[word] for word in (WORDS[first], WORDS[second])}
        (tmp_path / "choices.json").write_text(json.dumps(asked))
        two = asking(asked)
        gold = [p.label for p in two.predict(texts)]
        rows = [f"{text}\t{name}\n" for text, name in zip(texts, gold, strict=True)]
        for name, part in (("held_out.tsv", rows[::2]), ("calibration.tsv", rows[1::2] * 4)):
            (tmp_path / name).write_text("text\tlabel\n" + "".join(part))
        adopted, preset = tmp_path / "adopted", tmp_path / "preset.yaml"
        done = run(
            "adopt", str(folder), "--base", str(backbone), "--held-out",
            str(tmp_path / "held_out.tsv"), "--choices", str(tmp_path / "choices.json"),
            "--template", TEMPLATE, "-o", str(adopted),
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        done = run(
            "calibrate", "-a", str(adopted), "-d", str(tmp_path / "calibration.tsv"),
            "--target-risk", "0.45", "-o", str(preset),
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        done = run("predict", "-p", str(preset), "--jsonl", "fine film")
        assert done.exit_code == 0, done.output
        [found] = BayesLoRAClassifier.from_preset(preset).predict(["fine film"])
        assert found.novelty is not None
        assert f"choices {two.choices.fingerprint}" in found.scored_by  # type: ignore[union-attr]
        assert {*found.probabilities} == {*asked}
        again = BayesLoRAClassifier.from_pretrained(adopted, choices=asked, template=TEMPLATE)
        assert again.choices == two.choices
        with pytest.raises(ValueError, match=r"`choices`, `template` .* differ"):
            BayesLoRAClassifier.from_pretrained(adopted, choices=asked, template="{text} day")
        with pytest.raises(ValueError, match="`choices` differ"):
            BayesLoRAClassifier.from_pretrained(adopted, choices=CHOICES, template=TEMPLATE)
        with pytest.raises(ValueError, match=r"of a language model.*a classification head"):
            load_adapter(adopted)

    def test_in_a_hub_it_answers_as_alone(self, folder: Path, backbone: Path) -> None:
        asked = {"choices": CHOICES, "template": TEMPLATE}
        alone = BayesLoRAClassifier.from_pretrained(folder, base=backbone, device="cpu", **asked)  # type: ignore[arg-type]
        hub = AdapterHub(base=backbone, device="cpu")
        for name in ("one", "two"):
            hub.add(name, folder, **asked)
        found = hub.predict([("one", text) for text in TEXTS] + [("two", TEXTS[0])])
        expected = alone.predict(TEXTS)
        for p, q in zip(found, [*expected, expected[0]], strict=True):
            assert (p.confidence, p.variance) == pytest.approx((q.confidence, q.variance), rel=1e-4)
