"""Proposes which labels lead to which tool, from their names. A person has the last word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel

from bayeslora_tool.artifacts.backbone_model import load_tokenizer, quiet

LEAST_SIMILARITY = 0.4  # of CLINC150's 150 intents and 30 tools by name: 67 % of 63 bound rightly


class Binding(NamedTuple):
    """The tool that a label is most like; ``similarity`` is a cosine, in [-1, 1]."""

    label: str
    tool: str
    similarity: float


def propose_binding(
    labels: Sequence[str], tools: Mapping[str, str], backbone: Path
) -> list[Binding]:
    """For each label the tool whose name and description it is most like.

    Compared are the means of the tokens' last hidden states of the backbone, without an adapter
    (Reimers & Gurevych 2019, arXiv 1908.10084).

    Args:
        labels: Of a classifier, whose underscores stand for spaces.
        tools: Name and description of each tool, at least one.
        backbone: Folder of its weights and tokenizer.

    Raises:
        ValueError: No tools.
    """
    if not tools:
        raise ValueError("`tools` is empty; name at least one tool that a label may lead to")
    phrases = [f"{_spoken(name)}. {about}".strip() for name, about in tools.items()]
    similarity = (
        _embed([_spoken(label) for label in labels], backbone) @ _embed(phrases, backbone).T
    )
    best = similarity.max(dim=1)
    names = list(tools)
    return [
        Binding(label, names[k], value)
        for label, k, value in zip(labels, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def binding_yaml(bindings: Sequence[Binding], tools: Sequence[str], least: float) -> str:
    """The proposal as YAML to edit: the surest first, and what is like no tool as comments.

    Args:
        bindings: From :func:`propose_binding`.
        tools: Each gets an entry.
        least: Similarity from which a label is bound.
    """
    lines = ["# Proposed from names alone: read each line before an agent acts on it."]
    unbound = [b for b in bindings if b.similarity < least]
    for tool in tools:
        mine = [b for b in bindings if b.tool == tool and b.similarity >= least]
        lines.append(f"{_scalar(tool)}:" + (" []  # no label is like it" if not mine else ""))
        for b in sorted(mine, key=lambda b: -b.similarity):
            lines.append(f"  - {_scalar(b.label)}  # {b.similarity:.2f}")
    if unbound:
        lines.append("# Like no tool, so no call is let through for them:")
        for b in sorted(unbound, key=lambda b: -b.similarity):
            lines.append(f"#  - {_scalar(b.label)}  # {b.similarity:.2f} {b.tool}")
    return "\n".join(lines) + "\n"


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").lower()


def _scalar(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)  # "yes" and "no" would be booleans


def _embed(phrases: Sequence[str], backbone: Path) -> Tensor:
    tokenizer = load_tokenizer(backbone)
    with quiet():
        model = AutoModel.from_pretrained(
            str(backbone), use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).eval()
    with torch.inference_mode():
        batch = tokenizer(list(phrases), padding=True, truncation=True, return_tensors="pt")
        states = model(**batch).last_hidden_state  # (B, L, d)
    mask = batch["attention_mask"][..., None]
    return normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
