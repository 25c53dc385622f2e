"""``adapter_config.json``, read by ourselves: plain LoRA for texts, and nothing else.

PEFT does whatever its configuration says: it imports modules by name, repeats layers, decomposes
weights, and matches regular expressions that can run for ever. So it never sees the file: what is
known to be harmless is copied into a configuration of our own, and any other setting is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
from pydantic import ConfigDict, Field, StringConstraints
from pydantic_core import SchemaError

from bayeslora_tool.artifacts.backbone import HubName, Revision
from bayeslora_tool.artifacts.other_methods import check_method
from bayeslora_tool.documents import read_document, shown
from bayeslora_tool.settings import parse

FILE_NAME = "adapter_config.json"

N = TypeVar("N", int, float)

Rank = Annotated[int, Field(ge=1, le=4096)]
Alpha = Annotated[float, Field(gt=0, le=1e6)]
# A module's path or the end of one.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
Names = Annotated[list[Name], Field(max_length=2000)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
Task = Literal["SEQ_CLS", "CAUSAL_LM"]
Layer = Annotated[int, Field(ge=0, lt=10_000)]

# Ends of the classes of classifiers and of language models.
CLASS_ENDS: Mapping[bool, tuple[str, ...]] = {
    False: ("ForSequenceClassification",), True: ("ForCausalLM", "LMHeadModel"),
}  # fmt: skip
# PEFT writes these, and nothing that happens after training depends on them.
_WITHOUT_EFFECT = ("auto_mapping", "eva_config", "inference_mode", "peft_version")
# What PEFT writes where nobody asked for it; of any other key it is null, false or empty.
_DEFAULTS: Mapping[str, object] = {"megatron_core": "megatron.core", "qalora_group_size": 16}
# Beginnings that leave the backbone's weights alone.
Start = Literal["gaussian", "orthogonal", "eva"]
_STARTS = get_args(Start)


class AdapterConfig(pydantic.BaseModel):
    """The settings of PEFT's ``LoraConfig`` that are taken over; see there for their meaning.

    A string in ``target_modules`` or ``exclude_modules``, and each key of the patterns, is a
    regular expression without look-around and back-references.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    peft_type: Literal["LORA"]
    task_type: Task | None = None
    base_model_name_or_path: HubName | None = None
    revision: Revision | None = None
    r: Rank
    lora_alpha: Alpha
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Pattern | Annotated[Names, Field(min_length=1)]
    exclude_modules: Pattern | Names | None = None
    modules_to_save: Names | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    init_lora_weights: bool | Start = True
    layers_to_transform: Layer | Annotated[list[Layer], Field(max_length=10_000)] | None = None
    layers_pattern: Name | Names | None = None
    rank_pattern: Annotated[dict[Pattern, Rank], Field(max_length=2000)] = {}
    alpha_pattern: Annotated[dict[Pattern, Alpha], Field(max_length=2000)] = {}

    def for_peft(self, modules: Sequence[str]) -> dict[str, Any]:
        """The arguments of PEFT's ``LoraConfig``, with names of modules for the expressions.

        Args:
            modules: Paths of the backbone's modules.

        Raises:
            ValueError: An expression that cannot be matched in linear time.
        """
        return self.model_dump(
            exclude={"base_model_name_or_path", "revision", "init_lora_weights"}
        ) | {
            "target_modules": self._named("target_modules", modules),
            "exclude_modules": self._named("exclude_modules", modules),
            "rank_pattern": _by_name("rank_pattern", self.rank_pattern, modules),
            "alpha_pattern": _by_name("alpha_pattern", self.alpha_pattern, modules),
        }

    def _named(self, key: str, modules: Sequence[str]) -> Any:
        value = getattr(self, key)
        if not isinstance(value, str) or (key == "target_modules" and value == "all-linear"):
            return value
        return sorted(_matching(key, value, modules))


def read_adapter_config(folder: Path, *, causal: bool = False) -> AdapterConfig:
    """Read and check ``adapter_config.json``.

    Args:
        folder: That holds it.
        causal: Whether it should be that of a language model rather than of a classifier.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not JSON, a setting that is not plain LoRA for such a model, or a value out
            of range.
    """
    path = folder / FILE_NAME
    content = read_document(path)
    if isinstance(content, dict):
        known = AdapterConfig.model_fields.keys()
        check_method(content, str(path))
        check_task(content.get("task_type"), str(path), causal=causal)
        # PEFT writes it where no task was named.
        mapping = content.get("auto_mapping")
        trained = str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""
        wanted = CLASS_ENDS[causal]
        if "For" in trained and not trained.endswith(wanted):
            raise ValueError(
                f"{path}: `base_model_class` (={trained!r:.80}) has another task than text "
                f"classification{' by choices' if causal else ''}; an adapter of a model whose "
                f"class ends in {wanted[0]} is needed"
            )
        start = content.get("init_lora_weights")
        if isinstance(start, str) and start not in _STARTS:
            raise ValueError(
                f"{path}: `init_lora_weights` (={start!r:.80}) changes the backbone's weights, and "
                f"to what is not in the folder; save the adapter again with PEFT's "
                f"save_pretrained(..., path_initial_model_for_weight_conversion=...)"
            )
        for key, value in content.items():
            absent = value in (None, {}, []) or value is False or value == _DEFAULTS.get(key)
            if not (key in known or key in _WITHOUT_EFFECT or absent):
                raise ValueError(
                    f"{path}: `{shown(key, 80)}` (={value!r:.80}) asks for more than plain LoRA, "
                    f"which is all that has a posterior here; train the adapter without it"
                )
        content = {key: value for key, value in content.items() if key in known}
    return parse(AdapterConfig, content, source=str(path), strict=True)


def check_task(task: object, source: str, *, causal: bool) -> None:
    """See that an adapter does what is asked of it.

    Args:
        task: Its ``task_type``; one that is not named is told by other signs.
        source: For the message.
        causal: As for :func:`read_adapter_config`.

    Raises:
        ValueError: It has another task.
    """
    if task is None or task == ("CAUSAL_LM" if causal else "SEQ_CLS"):
        return
    found = f"{source}: `task_type` (={task!r:.80})"
    if task == "CAUSAL_LM":
        raise ValueError(
            f"{found} is that of a language model, which has no labels but what it writes; name "
            f"them, choices={{'refund': ' refund', ...}}, with template= as it was trained (or "
            f"take an adapter trained with task_type='SEQ_CLS')"
        )
    if task == "SEQ_CLS":
        raise ValueError(
            f"{found} is that of a classifier, which has labels of its own; leave choices= and "
            f"template= out"
        )
    wanted = "CAUSAL_LM" if causal else "SEQ_CLS"
    raise ValueError(
        f"{found} is another task than text classification; an adapter trained with "
        f"task_type={wanted!r} is needed"
    )


def _matching(key: str, pattern: str, modules: Collection[str]) -> list[str]:
    """The modules whose whole path the expression matches."""
    try:
        # pydantic's engine takes linear time, whatever the expression; Python's own need not.
        whole = pydantic.TypeAdapter(
            Annotated[str, StringConstraints(pattern=rf"\A(?:{pattern})\z")],
            config=ConfigDict(regex_engine="rust-regex"),
        )
    except SchemaError:
        raise ValueError(
            f"`{key}` (={pattern!r:.80}) is no regular expression that can be matched in linear "
            f"time; give the names of the modules as a list"
        ) from None

    found = []
    for name in modules:
        with suppress(pydantic.ValidationError):
            found.append(whole.validate_python(name))
    return found


def _by_name(key: str, values: Mapping[str, N], modules: Collection[str]) -> dict[str, N]:
    """The same pattern with one expression a value, made of the names of modules.

    As in PEFT, an expression may match the end of a path, and the first that does counts.
    """
    left, names = list(modules), dict[N, list[str]]()
    for pattern, value in values.items():
        found = set(_matching(key, rf"(?:.*\.)?(?:{pattern})", left))
        names.setdefault(value, []).extend(name for name in left if name in found)
        left = [name for name in left if name not in found]
    return {
        f"^(?:{'|'.join(map(re.escape, some))})": value for value, some in names.items() if some
    }
