"""What a language model is tried on when it loads: texts, and made-up choices behind them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bayeslora_tool.inference.encoding import Encoded, Encoder
from bayeslora_tool.inference.wording import Wording
from bayeslora_tool.language.prompts import ChoiceTree, left_padded
from bayeslora_tool.language.template_tokenizer import TemplateTokenizer


class TrialTexts:
    """A reader, see ``network.Reader``, whose every row ends in the same choices.

    Args:
        tokenizer: Of the backbone.
        tokens: Of the same.
        max_tokens: That the model reads.

    Attributes:
        tree: Of the choices, of one token and of several.
    """

    wording: Wording | None = None

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tokens: TemplateTokenizer, max_tokens: int
    ) -> None:
        self.pad_id = Encoder(tokenizer, max_tokens).pad_id
        self._tokens = tokens
        n = len(tokenizer)
        one, two, three = n // 2, n // 3, n // 4
        self.tree = ChoiceTree([[one, two], [one, three, two], [two]])

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text and of the tree."""
        ids = (self._tokens.ids(text) + self.tree.tokens for text in texts)
        return [Encoded(i, row, truncated=False, unread=0.0) for i, row in enumerate(ids)]

    def tensors(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Padded on the left."""
        return left_padded(batch, self.pad_id)
