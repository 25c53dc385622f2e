"""What stands beside an adapter on disk: taken over by its classifier, which is held to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora_tool.artifacts.golden_predictions import check_golden
from bayeslora_tool.artifacts.manifest import FILE_NAME, PosteriorRecord
from bayeslora_tool.inference import forecast
from bayeslora_tool.inference.neighbours import Neighbours
from bayeslora_tool.inference.novelty import Novelty
from bayeslora_tool.inference.wording import Wording

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier

logger = logging.getLogger(__name__)


def hold_to_records(classifier: BayesLoRAClassifier, folder: Path) -> None:
    """Compare with the golden predictions; take what texts are held against, and the calibration.

    Args:
        classifier: Fresh, of the adapter in ``folder``; changed in place.
        folder: Of the adapter.

    Raises:
        ValueError: A file beside the adapter is damaged or another's, or the golden predictions do
            not come out.
    """
    classifier.novelty = Novelty.load(folder)
    classifier.neighbours = Neighbours.load(folder)
    fitted = [one for one in (classifier.novelty, classifier.neighbours) if one is not None]
    if fitted:
        features = classifier.passes(["any"]).features
        for one in fitted:
            one.check_fit(features, len(classifier.labels))
    classifier.network.encoder.wording = Wording.load(folder)
    manifest, posterior = classifier.manifest, classifier.posterior
    if manifest is None:
        logger.warning(
            "%s has no %s: its labels, backbone and weights are unverified", folder, FILE_NAME
        )
        return
    own = PosteriorRecord(
        placement=posterior.placement, scope=posterior.scope, dropout=posterior.dropout
    )
    same_noise = own == manifest.posterior
    check_golden(
        classifier.predict, manifest, same_noise=same_noise, exact=classifier.network.exact
    )
    if manifest.calibration is not None:  # golden predictions come from before it
        classifier.temperature = manifest.calibration.temperature
        classifier.sureness = manifest.calibration.sureness
        if same_noise:  # which it was measured with
            classifier.offset = manifest.calibration.offset
            classifier.forecast = manifest.calibration.forecast or forecast.UNMEASURED
