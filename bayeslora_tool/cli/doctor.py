"""Is this installation fit to gate an agent? One finding a check; nothing is changed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, NamedTuple, Unpack

import typer

from bayeslora_tool.cli.loading_options import (
    PANEL,
    BaseOption,
    DeviceOption,
    DropoutOption,
    DtypeOption,
    LabelsOption,
    load_options,
)
from bayeslora_tool.cli.terminal import err, friendly, out

if TYPE_CHECKING:
    from bayeslora_tool.classifier import LoadOptions


def doctor(
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", help="Also check this adapter.", rich_help_panel=PANEL),
    ] = None,
    base: BaseOption = None,
    labels: LabelsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Check environment, backbone, adapters, noise and thresholds; exit code 1 if any fails."""
    from rich.table import Table

    with friendly():
        how = load_options(base, labels, dropout, device, dtype)
        if adapter is None and any(value is not None for value in how.values()):
            raise ValueError(
                "--base, --labels, --dropout, --device and --dtype are for --adapter; name one"
            )
    table = Table("", "check", "found", box=None, pad_edge=False)
    failed = 0
    with err.status("checking"):
        for finding in examine(adapter, **how):
            failed += not finding.ok
            mark = "[green]ok[/]" if finding.ok else "[bold red]fails[/]"
            table.add_row(mark, finding.check, finding.found)
    out.print(table)
    if failed:
        err.print(f"[bold red]{failed} checks failed[/]")
        raise typer.Exit(1)


class Finding(NamedTuple):
    """One check: whether it passed, and what was seen."""

    check: str
    ok: bool
    found: str


def examine(adapter: str | None = None, **how: Unpack[LoadOptions]) -> Iterator[Finding]:
    """Check the environment, the backbone, the adapters (and ``adapter``), and the presets."""
    import torch

    from bayeslora_tool.artifacts.manifest import bundled_adapters
    from bayeslora_tool.settings import bundled

    packages = ("torch", "transformers", "peft", "langgraph", "langchain-core")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    yield Finding("environment", True, f"Python {platform.python_version()}, {versions}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    yield Finding("device", True, f"{device}, {torch.get_num_threads()} threads")
    yield _backbone()
    names = bundled_adapters()
    if not names:
        yield Finding("adapters", False, "none bundled; reinstall the package")
    for name in names:
        yield from _adapter(name)
    if adapter:
        yield from _adapter(adapter, **how)
    for name in bundled():
        yield _preset(name)


def _backbone() -> Finding:
    from bayeslora_tool.artifacts.backbone import backbone_fingerprint, find_backbone
    from bayeslora_tool.training.recipe import DEFAULT_BACKBONE, DEFAULT_REVISION

    try:
        folder = find_backbone(DEFAULT_BACKBONE, DEFAULT_REVISION)
        files = backbone_fingerprint(folder)
    except (OSError, ValueError) as error:
        return Finding("backbone", False, str(error))
    digests = ", ".join(f"{name} {digest[:8]}" for name, digest in files.items())
    return Finding("backbone", True, f"{DEFAULT_BACKBONE}: {digests}")


def _adapter(name: str, **how: Unpack[LoadOptions]) -> Iterator[Finding]:
    from bayeslora_tool.classifier import BayesLoRAClassifier

    check = f"adapter {name}"
    try:
        classifier = BayesLoRAClassifier.from_pretrained(name, **how)
    except (OSError, ValueError) as error:
        yield Finding(check, False, str(error))
        return
    verified = "files and golden predictions as recorded"
    if classifier.manifest is None:
        verified = "loads, but has no bayeslora.json: unverified"
    yield Finding(check, True, f"{len(classifier.labels)} labels; {verified}")
    posterior = classifier.posterior
    noise = f"p={posterior.dropout:g}, {posterior.placement}, {posterior.scope}"
    yield Finding(f"{check}: dropout", True, f"{noise}, on {len(posterior.widths)} layers")
    seen = classifier.self_check
    ways = f"alone as in a batch to {seen.alone:.0e}, merged as unmerged to {seen.merged:.0e}"
    slopes = "" if seen.slopes is None else f", by derivatives as by draws to {seen.slopes:.0e}"
    apart = "; each draw and text by itself" if seen.apart else ""
    took = f"; {1000 * seen.seconds:.0f} ms"
    if classifier.manifest is not None and seen is classifier.manifest.self_check:
        took = f"; as recorded under the same versions, where it took {1000 * seen.seconds:.0f} ms"
    yield Finding(f"{check}: self-check", True, f"{ways}{slopes}{apart}{took}")
    predictions = classifier.predict(["It was not what I expected.", "please help me with this"])
    variances = [p.variance for p in predictions]
    shown = ", ".join(f"{v:.1e}" for v in variances)
    yield Finding(f"{check}: variance > 0", min(variances) > 0, shown)


def _preset(name: str) -> Finding:
    from bayeslora_tool.artifacts.manifest import bundled_adapters, read_manifest
    from bayeslora_tool.policy import load_preset

    check = f"preset {name}"
    try:
        preset = load_preset(name)
        folder = bundled_adapters()[preset.adapter]
    except (OSError, ValueError, KeyError) as error:
        return Finding(check, False, f"{type(error).__name__}: {error}")
    manifest = read_manifest(folder)
    assert manifest is not None
    least, *_, most = manifest.metrics["quantiles"]["variance"]
    tau, calibrated_for = preset.policy.tau_var, preset.policy.calibrated_for
    seen = f"tau_var {tau:.2g}, variances seen in held-out texts {least:.1e} to {most:.1e}"
    if calibrated_for is None:
        # Outside that range the gate would stop everything, or nothing.
        return Finding(check, least < tau < most, f"{seen}; chosen by hand, no promise")
    record = manifest.calibration
    if record is None or record.scored_by != calibrated_for:
        found = record.scored_by if record else "none"
        return Finding(check, False, f"calibrated for {calibrated_for}; the adapter has {found}")
    promise = f"at most {record.target_risk:.0%} wrong" if record.target_risk else "load capped"
    # A gate that stops nothing may be what calibration found; one that stops all is broken.
    return Finding(check, least < tau, f"{seen}; {promise} with {1 - record.delta:.0%} confidence")
