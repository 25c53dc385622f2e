"""A causal language model with a LoRA adapter: what it writes, and how sure it is of each token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils.quantization_config import QuantizationConfigMixin

from bayeslora_tool.artifacts.in_memory import load_or_take, short_fingerprint
from bayeslora_tool.artifacts.manifest import Manifest
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.estimators import linearized
from bayeslora_tool.inference.network import Network
from bayeslora_tool.inference.positions import longest_text
from bayeslora_tool.inference.posterior import AdapterPosterior, Placement, Scope, posterior_of
from bayeslora_tool.inference.scorer import score, scored_by
from bayeslora_tool.inference.self_check import checked_network
from bayeslora_tool.inference.sureness import Reference
from bayeslora_tool.language.asked import check_options, checked_tokens, readable
from bayeslora_tool.language.choices import ChoiceHead
from bayeslora_tool.language.continuation import Continuation
from bayeslora_tool.language.conversation import rendered
from bayeslora_tool.language.prompts import ChoiceTree
from bayeslora_tool.language.stopping import end_tokens, until_stop
from bayeslora_tool.language.template_tokenizer import TemplateTokenizer
from bayeslora_tool.language.tokens import TokenDoubt, doubts
from bayeslora_tool.language.trial import TrialTexts
from bayeslora_tool.policy import Scoring
from bayeslora_tool.prediction import Prediction

OTHER = "(something else)"
"""The label of whatever else a text may go on with; see :meth:`LanguageModel.choice`."""
Asked = str | Sequence[Mapping[str, Any]]
_CONTEXT = 8  # tokens that a decoder may need to know what the next one adds
_SOURCES = {"linearized": "linearization", "monte_carlo": "draws", "deterministic": "none"}


class LanguageModel:
    """A language model whose adapter says how much it doubts.

    Thread-safe: the model stays in eval mode, and noise reaches only the pass that asked for it.
    Use :meth:`from_pretrained`.

    Args:
        model: PEFT model with a LoRA adapter on a causal language model; fused in place.
        tokenizer: Of the backbone.
        posterior: Attached to ``model``.
        manifest: The adapter's ``bayeslora.json``, if it has one.

    Raises:
        ValueError: The ways to compute a number lie too far apart (see ``self_check.py``).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        posterior: AdapterPosterior,
        *,
        manifest: Manifest | None = None,
    ) -> None:
        self.tokenizer, self.posterior = tokenizer, posterior
        self._adapter = short_fingerprint(model, manifest)
        self.max_tokens = longest_text(model, tokenizer)
        self._tokens = TemplateTokenizer(tokenizer)
        self._vocabulary = int(model.get_base_model().config.get_text_config().vocab_size)
        self._ends = end_tokens(model.get_base_model(), tokenizer)
        reader = TrialTexts(tokenizer, self._tokens, self.max_tokens)
        recorded = manifest.self_check if manifest else None
        self.network, self.self_check = checked_network(
            model, posterior, reader, recorded, head=ChoiceHead(reader.tree)
        )

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | Path | PeftModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        base: str | Path | None = None,
        base_revision: str | None = None,
        placement: Placement | None = None,
        scope: Scope | None = None,
        dropout: float | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
    ) -> Self:
        """Load an adapter (``task_type="CAUSAL_LM"``) and verify it; or take a model in memory.

        The arguments are those of ``BayesLoRAClassifier.from_pretrained``.

        Raises:
            FileNotFoundError: Adapter or backbone not found.
            TypeError: ``adapter`` is no name, path or PEFT model, or that has no ``tokenizer``.
            ValueError: It is none of a language model, a file is not the recorded one, or the
                adapter has no usable posterior; the message says what to do.
        """
        on_disk: dict[str, Any] = {
            "revision": revision, "subfolder": subfolder, "base": base,
            "base_revision": base_revision, "device": device, "dtype": dtype,
            "quantization_config": quantization_config,
        }  # fmt: skip
        loaded = load_or_take(adapter, tokenizer, None, causal=True, **on_disk)
        recorded = loaded.manifest.posterior if loaded.manifest else None
        posterior = posterior_of(
            loaded.model, recorded, placement=placement, scope=scope, dropout=dropout
        )
        return cls(loaded.model, loaded.tokenizer, posterior, manifest=loaded.manifest)

    def scored_by(self, scoring: Scoring) -> str:
        """Everything that a :meth:`choice` depends on besides what is asked."""
        return scored_by(self.network, self._adapter, scoring, ["anything else"])

    def tokens(self, text: str) -> list[int]:
        """Of what follows a prompt; special tokens that it spells out are what they say."""
        return self._tokens.behind(readable(text, "a text of tokens"))

    def prompt(
        self, asked: Asked, *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Tokens that the model is to go on from.

        Args:
            asked: A text as the model was trained with, which may spell out special tokens; or
                messages as its chat template takes them (``role``, ``content``, ``tool_calls``), in
                which no special token can be spelt.
            tools: That the chat template offers to the model: JSON schemas,
                ``{"type": "function", "function": {...}}``.

        Raises:
            TypeError: Neither a text nor messages.
            ValueError: No chat template, or it does not take the messages; ``tools`` of a text.
        """
        if not isinstance(asked, str):
            asked = rendered(self.tokenizer, self._tokens, asked, tools)
        elif tools:
            raise ValueError("`tools` are for messages; write a text's own into it")
        return self._tokens.ids(readable(asked, "the prompt"))

    def choice(
        self,
        before: Sequence[int],
        options: Mapping[str, Sequence[int]],
        scoring: Scoring | None = None,
    ) -> Prediction:
        """How likely the text goes on with each option, or with anything else.

        Args:
            before: Tokens, one or more.
            options: By name, the tokens of each; none may begin with all of another.
            scoring: Any estimator but ``adaptive``; None is ``linearized``.

        Returns:
            A prediction whose labels are the options' names and, last, ``OTHER``. Its probabilities
            are those that the model gives to the tokens, not those of a choice among the options.

        Raises:
            ValueError: Options that cannot be told apart, or too many tokens.
        """
        scoring = scoring or Scoring("linearized")
        if scoring.estimator == "adaptive":
            raise ValueError("`scoring`: 'adaptive' works for thresholds; take 'linearized'")
        network, encoded = self._row(before, options)
        moments = score(network, Reference(), [encoded], scoring).moments
        labels, mean = [*options, OTHER], moments.mean[0].tolist()
        best = mean.index(max(mean))
        return Prediction(
            label=labels[best],
            confidence=mean[best],
            variance=float(moments.variance[0, best]),
            probabilities=dict(zip(labels, mean, strict=True)),
            entropy=float(moments.entropy[0]),
            mutual_information=float(moments.mutual_information[0]),
            n_draws=scoring.n_draws if scoring.estimator == "monte_carlo" else 0,
            estimator=scoring.estimator,
            seed=scoring.seed,
            n_tokens=len(encoded.ids),
            truncated=False,
            scored_by=self.scored_by(scoring),
            variance_from=_SOURCES[scoring.estimator],
        )

    def doubt_of_tokens(
        self,
        asked: Asked,
        answer: str | None = None,
        *,
        scoring: Scoring | None = None,
        which: Collection[int] | None = None,
    ) -> list[TokenDoubt]:
        """How sure the model is of each token of an answer, which somebody else may have written.

        Args:
            asked: See :meth:`prompt`.
            answer: What follows. None: the last of the messages, if it is the model's; of a text,
                all of its tokens that have one before them.
            scoring: ``monte_carlo`` reads the text in as many draws, 20 unless told otherwise, and
                says the same of all tokens; ``linearized`` takes about two passes for each token;
                ``deterministic`` one pass, which has no variance.
            which: Places in the answer, from 0; None takes all.

        Returns:
            The doubt of each of these tokens, in order.

        Raises:
            TypeError, ValueError: As :meth:`prompt`; or nothing to be sure of, a place that is
                none, or ``adaptive``.
        """
        scoring = scoring or Scoring("monte_carlo")
        if scoring.estimator == "adaptive":
            raise ValueError("`scoring`: 'adaptive' works for thresholds; take 'monte_carlo'")
        before, ids = self._parts(asked, answer)
        self._check_length(len(before) + len(ids), bool(before and ids))
        if not (which is None or isinstance(which, Collection)):
            raise TypeError(f"`which` (={which!r:.80}) must be places in the answer, such as [0]")
        places = sorted({*which}) if which is not None else [*range(len(ids))]
        if places and not 0 <= places[0] <= places[-1] < len(ids):
            raise ValueError(
                f"`which` (={places!r:.80}) must be in 0 to {len(ids) - 1}, the tokens"
            )
        if scoring.estimator == "linearized":
            texts = self._pieces(before)
            pieces = [texts(token) for token in ids]
            return [self._linearized(before + ids[:at], ids[at], pieces[at]) for at in places]
        found = self._forced(before, ids, scoring)
        return [found[at] for at in places]

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        n_draws: int = 0,
        stop: Collection[str] = (),
        doubtful: Callable[[TokenDoubt], bool] | None = None,
    ) -> Iterator[TokenDoubt]:
        """Write on, token by token, by the model without noise; draws only look on.

        So what is written does not depend on whether doubt is asked for.

        Args:
            prompt: Tokens, from :meth:`prompt`.
            max_tokens: At most so many, >= 1; fewer where the model's positions end.
            temperature: 0 takes the likeliest token; above, tokens are drawn by the probabilities
                of the logits divided by it. Doubt is that of temperature 1.
            seed: Of the draws of tokens and of the adapter.
            n_draws: Draws T of the adapter that each token's doubt is measured by; 0 measures none.
            stop: Strings that end the text; what begins one is not part of it.
            doubtful: Whether a token is too doubtful to be written: then it comes last, and is not
                part of the text either.

        Yields:
            Each token with its doubt, but not the one that ends the model's turn.

        Raises:
            ValueError: An argument out of range, or a prompt that leaves no room.
        """
        if not (isinstance(max_tokens, int) and max_tokens >= 1):
            raise ValueError(f"`max_tokens` (={max_tokens!r}) must be an integer >= 1")
        number = isinstance(temperature, int | float)
        if not (number and 0 <= temperature < float("inf")):
            raise ValueError(f"`temperature` (={temperature!r}) must be a finite number >= 0")
        # Says what is out of range.
        Scoring("monte_carlo", seed=seed, **({"n_draws": n_draws} if n_draws != 0 else {}))
        words = () if isinstance(stop, str) or not isinstance(stop, Collection) else stop
        if words is not stop or not all(isinstance(word, str) and word for word in words):
            raise ValueError(
                f"`stop` (={stop!r:.80}) must be a list of strings, none of them empty"
            )
        if not (doubtful is None or callable(doubtful)):
            raise TypeError(f"`doubtful` (={doubtful!r:.80}) must be a function of a token's doubt")
        ids = checked_tokens("prompt", prompt, self._vocabulary)
        self._check_length(len(ids) + 1, bool(ids))
        most = min(max_tokens, self.max_tokens - len(ids))
        choose = _chooser(temperature, seed)
        return until_stop(self._written(ids, most, choose, seed, n_draws, doubtful), stop)

    def _written(
        self,
        prompt: list[int],
        most: int,
        choose: Callable[[Tensor], int],
        seed: int,
        n_draws: int,
        doubtful: Callable[[TokenDoubt], bool] | None,
    ) -> Iterator[TokenDoubt]:
        plain = Continuation(self.network)
        drawn = Continuation(self.network, range(n_draws), seed) if n_draws else None
        text, ids = self._pieces(prompt), prompt
        for _ in range(most):
            logits = plain.read(ids)
            noisy = drawn.read(ids)[:, None] if drawn is not None else None
            token = choose(logits[0])
            if token in self._ends:
                return
            (doubt,) = doubts([token], [text(token)], logits, noisy)
            yield doubt
            if doubtful is not None and doubtful(doubt):
                return
            ids = [token]

    def _forced(self, before: list[int], ids: list[int], scoring: Scoring) -> list[TokenDoubt]:
        """The doubt of tokens that were written before."""
        readers = [Continuation(self.network)]
        if scoring.estimator == "monte_carlo":
            readers.append(Continuation(self.network, range(scoring.n_draws), scoring.seed))
        for reader in readers:
            if before[:-1]:
                reader.read(before[:-1])
        read, texts = [before[-1], *ids[:-1]], self._pieces(before)
        found, step = [], min(reader.most for reader in readers)
        for start in range(0, len(ids), step):
            some = read[start : start + step]
            plain, *noisy = (reader.feed(some, len(some)) for reader in readers)
            tokens = ids[start : start + step]
            pieces = [texts(token) for token in tokens]
            found += doubts(tokens, pieces, plain[0], noisy[0] if noisy else None)
        return found

    def _row(
        self, before: Sequence[int], options: Mapping[str, Sequence[int]]
    ) -> tuple[Network, Encoded]:
        """The network that is asked about options, or anything else, and what it reads."""
        if not isinstance(options, Mapping):
            raise TypeError(f"`options` (={options!r:.80}) must be tokens by name, as a dict")
        given = {
            name: checked_tokens(f"options[{name!r:.80}]", option, self._vocabulary)
            for name, option in options.items()
        }
        check_options(given, OTHER)
        tree = ChoiceTree(list(given.values()))
        ids = checked_tokens("before", before, self._vocabulary)
        self._check_length(len(ids) + int(tree.lengths.max()), bool(ids))
        row = Encoded(0, ids + tree.tokens, truncated=False, unread=0.0)
        return self.network.asked(ChoiceHead(tree, rest=True)), row

    def _linearized(self, before: list[int], token: int, text: str) -> TokenDoubt:
        """The doubt of one token against all others."""
        network, row = self._row(before, {"token": [token]})
        found = network.linearize([row])
        plain = found.passed.probabilities
        moments = linearized(plain, found.variance)
        return TokenDoubt(
            token,
            text,
            float(plain[0, 0]),
            float(moments.mean[0, 0]),
            float(moments.variance[0, 0]),
            float(moments.mutual_information[0]),
            float(moments.entropy[0]),
        )

    def _parts(self, asked: Asked, answer: str | None) -> tuple[list[int], list[int]]:
        if answer is not None:
            return self.prompt(asked), self.tokens(answer)
        if isinstance(asked, str):
            ids, n = self.prompt(asked), max(len(self._tokens.begin), 1)
            return ids[:n], ids[n:]
        last = asked[-1] if isinstance(asked, Sequence) and asked else None
        if not (
            isinstance(last, Mapping)
            and last.get("role") == "assistant"
            and isinstance(last.get("content"), str)
        ):
            raise ValueError(
                "the last message is not one of the model's in words; name the `answer` whose "
                "tokens are asked about"
            )
        return self.prompt(asked[:-1]), self.tokens(last["content"])

    def _pieces(self, before: Sequence[int]) -> Callable[[int], str]:
        """What each next token adds to the text behind these."""
        stream = DecodeStream(ids=[*before[-_CONTEXT:]], skip_special_tokens=False)
        return lambda token: stream.step(self._tokens.backend, token) or ""

    def _check_length(self, n: int, anything: bool) -> None:
        if not anything:
            raise ValueError("there are no tokens to go on from, or none to be sure of")
        if n > self.max_tokens:
            raise ValueError(
                f"{n} tokens are asked for, and the model reads {self.max_tokens}; shorten the "
                f"conversation"
            )


def _chooser(temperature: float, seed: int) -> Callable[[Tensor], int]:
    """Which token comes next, by its logits (V,)."""
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor) -> int:
        p = (logits.cpu().double() / temperature).softmax(dim=-1)
        return int(torch.multinomial(p, 1, generator=generator))

    return choose
