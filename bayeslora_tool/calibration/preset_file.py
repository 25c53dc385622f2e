"""What a calibration found, written as a preset and into the adapter's ``bayeslora.json``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from bayeslora_tool.artifacts.manifest import (
    CalibrationRecord,
    bundled_adapters,
    find_adapter_folder,
    read_manifest,
)
from bayeslora_tool.calibration.guarantee import Result
from bayeslora_tool.calibration.thresholds import Goal
from bayeslora_tool.policy import Policy, Preset


@dataclass(frozen=True)
class Calibrated:
    """What calibration found: the record for the manifest, and the preset that uses it."""

    record: CalibrationRecord
    result: Result
    preset: Preset


def write_calibration(calibrated: Calibrated, folder: Path, preset: Path) -> None:
    """Write the preset as YAML, and the record into the adapter's ``bayeslora.json``.

    Raises:
        ValueError: The goal was not reached: there is nothing to rely on.
    """
    if not calibrated.result.feasible:
        raise ValueError("the goal was not reached, so no thresholds were written")
    manifest = read_manifest(find_adapter_folder(folder))
    assert manifest is not None
    # First what may fail, for a record without its preset would make the one before escalate all.
    preset.write_text(preset_yaml(_sought_from(preset.parent, calibrated)), encoding="utf-8")
    manifest.model_copy(update={"calibration": calibrated.record}).write(folder)


def _sought_from(place: Path, calibrated: Calibrated) -> Calibrated:
    """With an adapter folder named as the preset in ``place`` will find it, from wherever."""
    adapter = calibrated.preset.adapter
    if adapter in bundled_adapters() or not Path(adapter).is_dir():
        return calibrated
    way = Path(os.path.relpath(adapter, place)).as_posix()
    way = way if way.startswith("../") else f"./{way}"
    return replace(calibrated, preset=replace(calibrated.preset, adapter=way))


def preset_yaml(calibrated: Calibrated) -> str:
    """The preset as YAML, with what it promises on top."""
    r, preset = calibrated.record, calibrated.preset
    content = {
        "adapter": preset.adapter,
        "scoring": asdict(preset.scoring),
        "policy": asdict(preset.policy),
        **({} if preset.acts is None else {"acts": preset.acts}),
    }
    goal = Goal(r.target_risk or Goal.target_risk, r.delta, r.max_out_of_scope)
    typed = f", {r.typos:.0%} of them mistyped" if r.typos else ""
    return _head(goal, r.max_escalation, calibrated.result, list(r.data_sha256), typed) + _yaml(
        content
    )


def policy_yaml(
    policy: Policy,
    result: Result,
    goal: Goal,
    max_escalation: float | None,
    files: Sequence[Path],
) -> str:
    """A preset without an adapter, for a decision model, with what it promises on top.

    Args:
        policy: From ``calibrate_confidence``, as the next.
        result: Feasible.
        goal: That was asked for.
        max_escalation: Instead of the goal's risk, if that was asked for.
        files: That the texts came from.
    """
    head = _head(goal, max_escalation, result, [path.name for path in files])
    return (
        f"{head}# For a DecisionClassifier; no adapter scores so: Policy.from_preset(this file).\n"
        + _yaml({"policy": asdict(policy)})
    )


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _head(
    goal: Goal,
    max_escalation: float | None,
    result: Result,
    files: Sequence[str],
    typed: str = "",
) -> str:
    if max_escalation is None:
        promise = f"at most {goal.target_risk:.1%} wrong among what proceeds"
    else:
        promise = f"at most {max_escalation:.1%} of texts do not proceed"
    if goal.max_out_of_scope is not None:
        promise += f", at most {goal.max_out_of_scope:.1%} of out-of-scope texts proceed"
    r = result
    seen = f"{r.coverage:.1%} of ordinary texts proceeded, {r.risk:.2%} of what proceeded was wrong"
    if r.out_of_scope is not None:
        seen += f", {r.out_of_scope:.1%} of the out-of-scope texts proceeded"
    return (
        f"# By `bayeslora calibrate`: {promise},\n"
        f"# with {1 - goal.delta:.0%} confidence, for texts like the {r.n_tuning + r.n_testing} of "
        f"{', '.join(files) or 'the calibration'}{typed}.\n"
        f"# On the {r.n_testing} that the promise rests on, {seen}.\n"
    )
