"""Features of one view of a patient against those of the other: frontal, lateral; left, right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.experiments.clean_features import collect_features
from medssl_invariance.experiments.image_plan import ImagePlan
from medssl_invariance.experiments.measurement import FACTS, Measurement, make_records
from medssl_invariance.experiments.metrics import METRICS
from medssl_invariance.experiments.pairs import list_views, plan_pairs
from medssl_invariance.experiments.reference_set import ReferenceSet, baselines

if TYPE_CHECKING:
    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Record, Records, RunContext
    from medssl_models.experiments.settings import ProtocolName

    from medssl_invariance.experiments.clean_features import CleanFeatures
    from medssl_invariance.experiments.pairs import PairPlan
    from medssl_invariance.experiments.settings import ViewsSettings

__all__ = ["EXPERIMENT", "run_views", "views"]

EXPERIMENT = "views"


def views(
    backbone: Backbone,
    data: ImageDataset,
    *,
    protocol: ProtocolName = "corrected",
    settings: ViewsSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Measure how alike the two views of a patient are.

    Args:
        backbone: The network.
        data: Images with views and patients.
        protocol: The preset that the settings start from.
        settings: Settings that are ready made, in place of a protocol.
        context: How it is run; None uses the feature store and shows progress.
        changes: Settings as keywords, such as `images=20`.

    Returns:
        Five records as of `synthetic`; the retrievals carry the median rank of the true partner
        among all second views.

    Raises:
        medssl_models.errors.SettingsError: A value is not allowed.
        medssl_data.PairError: No pairs, or not exactly two views.
        PairError: A view has no partner, where the settings refuse that.
        TooFewImagesError: Too few images for a covariance of others.
        FeatureError: Constant or non-finite features.
        CovarianceError: As `synthetic`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medssl_data import load_dataset
        >>> from medssl_data.synthetic.phantom import write_phantom
        >>> from medssl_models import RunContext
        >>> from medssl_models.testing import tiny_backbone
        >>> with tempfile.TemporaryDirectory() as root:
        ...     _ = write_phantom("chexpert", Path(root), {})
        ...     data = load_dataset("chexpert", root=root)
        ...     records = views(tiny_backbone(), data, images=4, context=RunContext())
        >>> records[0].settings["views"]
        ['lateral', 'frontal']
    """
    from medssl_models.experiments.runner import measure

    from medssl_invariance.experiments.declarations import VIEWS

    return measure(
        VIEWS,
        backbone,
        data,
        protocol=protocol,
        settings=settings,
        context=context,
        **changes,
    )


def run_views(
    backbone: Backbone, data: ImageDataset, settings: ViewsSettings, context: RunContext
) -> list[Record]:
    """Compare the two views of a model and a data set; see `views`."""
    planned = plan_pairs(data, settings)
    preprocessing = _preprocessing(backbone, settings)
    provenance = context.provenance(
        backbone, data, settings, preprocessing=preprocessing.fingerprint, **FACTS
    )
    identity = context.settings_of(settings, transform="views", views=list(planned.names))
    names = [metric.name for metric in METRICS]
    known = context.recall(EXPERIMENT, names, identity, provenance)
    if known is not None:
        return known
    clean = collect_features(backbone, data, preprocessing, planned.plan, settings, context)
    return make_records(
        EXPERIMENT,
        _measure(data, planned, clean, settings),
        settings,
        provenance=provenance.model_copy(update={"device": clean.device}),
        identity=identity,
    )


def _preprocessing(backbone: Backbone, settings: ViewsSettings) -> Preprocessing:
    if settings.geometry == "experiment":
        return backbone.preprocessing_for(
            settings.fed_by, resize=224, crop=224, interpolation="bicubic"
        )
    return backbone.preprocessing_for(settings.fed_by)


def _measure(
    data: ImageDataset, planned: PairPlan, clean: CleanFeatures, settings: ViewsSettings
) -> Measurement:
    readable = np.isin(planned.pairs, clean.rows).all(axis=1)
    first, second = planned.pairs[readable].T
    kept = ImagePlan(first, planned.plan.covariance)
    gallery = clean.readable(planned.gallery)
    reference = ReferenceSet.build(clean, kept, settings, gallery=gallery)
    features = clean.at(first)
    values = reference.measure(second, features, second)
    places = np.searchsorted(gallery, second)
    ranks = {
        "retrieval": reference.whitened.ranks(reference.whitening.deviations(features), places),
        "raw_retrieval": reference.raw.ranks(features, places),
    }
    counts: dict[str, object] = {
        "pairs": len(first),
        "available_pairs": planned.available,
        "without_partner": len(planned.lonely),
        "views": list(planned.names),
    }
    of_ranks = {
        metric: {
            "median_rank": float(np.nanmedian(rank)),
            "mean_reciprocal_rank": float(np.nanmean(1 / rank)),
        }
        for metric, rank in ranks.items()
    }
    return Measurement(
        axis="",
        places=np.zeros(1),
        identities=np.zeros(1, dtype=np.bool_),
        values=values[:, :, None],
        reference=reference,
        baselines=baselines(reference, data, settings, pool=gallery, except_for=second),
        notes=_notes(data, planned, reference, dropped=int((~readable).sum())),
        more={metric.name: counts | of_ranks.get(metric.name, {}) for metric in METRICS},
    )


def _notes(
    data: ImageDataset, planned: PairPlan, reference: ReferenceSet, *, dropped: int
) -> tuple[str, ...]:
    notes = list(reference.whitening.report.notes)
    if len(planned.lonely):
        notes.append(f"{list_views(data, planned.lonely)} without a partner left out")
    if dropped:
        notes.append(f"{dropped} of {len(planned.pairs)} pairs could not be read")
    return tuple(notes)
