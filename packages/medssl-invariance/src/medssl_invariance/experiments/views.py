"""Features of one view of a patient against those of the other: frontal, lateral; left, right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.errors import PairError, TooFewImagesError
from medssl_invariance.experiments.clean_features import collect_in_batches
from medssl_invariance.experiments.measurements import EXPERIMENT, Outcome, make_records
from medssl_invariance.experiments.reference_set import CleanFeatures, Plan, Reference, baselines
from medssl_invariance.experiments.runs import Means, prepare_network, provenance_of
from medssl_invariance.experiments.settings import ViewsSettings, identity
from medssl_invariance.similarity import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Record
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

__all__ = ["PairPlan", "plan_pairs", "views"]

LISTED = 5
"""Views without a partner that a note names."""


@dataclass(frozen=True)
class PairPlan:
    """Which pairs are compared, and which images stand beside them.

    Args:
        pairs: `(P, 2)` rows of the pairs that are compared; some repeat where the study drew so.
        plan: The first views, and the rows behind the covariance.
        gallery: Rows of second views among which the partner must be found, ascending.
        names: The two views.
        lonely: Rows of either view without a partner.
        available: How many pairs there are.
    """

    pairs: NDArray[np.int64]
    plan: Plan
    gallery: Rows
    names: tuple[str, str]
    lonely: Rows
    available: int

    @property
    def needed(self) -> Rows:
        """All rows that take part, ascending."""
        return np.unique(np.concatenate([self.plan.needed, self.pairs.ravel(), self.gallery]))


def views(
    backbone: Backbone,
    data: ImageDataset,
    *,
    settings: ViewsSettings | None = None,
    means: Means | None = None,
) -> list[Record]:
    """Measure how alike the two views of a patient are.

    Args:
        backbone: The network.
        data: Images with views and patients.
        settings: None takes the corrected preset.
        means: Extraction, store, and what is known already.

    Returns:
        Five records as of `synthetic`; the retrievals carry the median rank of the true partner
        among all second views.

    Raises:
        medssl_data.PairError: No pairs, or not exactly two views.
        PairError: A view has no partner, where the settings refuse that.
        TooFewImagesError: Too few pairs for a covariance of others.
    """
    from medssl_models.experiments.record import record_key

    settings, means = settings or ViewsSettings(), means or Means()
    planned = plan_pairs(data, settings)
    preprocessing = _preprocessing(backbone, settings)
    provenance = provenance_of(
        backbone, data, settings, preprocessing=preprocessing.fingerprint, means=means
    )
    own = identity(settings, transform="views", views=list(planned.names))
    keys = [record_key(EXPERIMENT, metric, own, provenance) for metric in METRICS]
    if all(key in means.known for key in keys):
        return [means.known[key] for key in keys]
    clean, spread = _clean(backbone, data, preprocessing, planned, settings, means)
    outcome = _measure(data, planned, clean, settings, spread=spread)
    return make_records(
        backbone,
        data,
        settings,
        outcome,
        provenance=provenance.model_copy(update={"device": clean.device}),
        identity=own,
    )


def _clean(
    backbone: Backbone,
    data: ImageDataset,
    preprocessing: Preprocessing,
    planned: PairPlan,
    settings: ViewsSettings,
    means: Means,
) -> tuple[CleanFeatures, NDArray[np.float32] | None]:
    """Give features of all views, and those of the covariance where BatchNorm makes them others."""
    rows = planned.needed
    if settings.batchnorm == "training":
        network = prepare_network(backbone, settings, means, crop=preprocessing.crop)
        return collect_in_batches(network, data, preprocessing, planned.plan, rows)
    return CleanFeatures.collect(backbone, data, preprocessing, rows, means), None


def plan_pairs(data: ImageDataset, settings: ViewsSettings) -> PairPlan:
    """Choose the pairs before an image is opened; raises as `views` does."""
    from medssl_data.views import card_pairs

    protocol: ProtocolName = "published" if settings.pairing == "study" else "corrected"
    pairs = card_pairs(data.manifest, data.card, protocol=protocol)
    seen = np.asarray(data.views)
    names = (str(seen[pairs[0, 0]]), str(seen[pairs[0, 1]]))
    lonely = np.setdiff1d(np.flatnonzero(np.isin(seen, names)), pairs)
    _refuse_lonely(data, lonely, settings)
    chosen = _choose(len(pairs), settings)
    compared = pairs[chosen]
    covariance = _covariance_rows(len(data), compared, settings)
    others = np.setdiff1d(pairs[:, 1], compared[:, 1])
    gallery = np.union1d(compared[:, 1], others[: max(settings.gallery - len(compared), 0)])
    plan = Plan(compared[:, 0], covariance, len(data))
    return PairPlan(compared, plan, gallery, names, lonely, len(pairs))


def _choose(count: int, settings: ViewsSettings) -> Rows:
    if settings.draw == "with_replacement":
        # NumPy's legacy generator is frozen; the study drew from a shuffled loader instead.
        draws = np.random.RandomState(settings.seed)
        return draws.randint(0, count, settings.images).astype(np.int64)
    most = max(count // 2, 1) if settings.covariance_from == "others" else count
    order = np.random.default_rng(settings.seed).permutation(count)
    return order[: min(settings.images, most)].astype(np.int64)


def _covariance_rows(rows: int, compared: Rows, settings: ViewsSettings) -> Rows:
    available: Rows = np.arange(rows)
    if settings.covariance_from == "others":
        available = np.setdiff1d(available, compared)
    if len(available) < 2:
        message = f"{len(available)} images are left for the covariance beside the pairs; 2 needed"
        raise TooFewImagesError(message)
    if settings.draw == "with_replacement":
        if rows < settings.covariance_images:
            return available
        draws = np.random.RandomState(settings.seed)  # as above
        return available[draws.randint(0, rows, max(settings.covariance_images, rows // 10))]
    order = np.random.default_rng([settings.seed, 1]).permutation(available)
    return order[: settings.covariance_images]


def _refuse_lonely(data: ImageDataset, lonely: Rows, settings: ViewsSettings) -> None:
    if settings.missing == "refuse" and len(lonely):
        message = (
            f"{data.name}: {_listed(data, lonely)} without a partner; "
            "--missing skip leaves them out"
        )
        raise PairError(message)


def _listed(data: ImageDataset, rows: Sequence[int] | Rows) -> str:
    names = ", ".join(data.ids[int(row)] for row in rows[:LISTED])
    more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return f"{len(rows)} view{'s' if len(rows) > 1 else ''} ({names}{more})"


def _preprocessing(backbone: Backbone, settings: ViewsSettings) -> Preprocessing:
    source: ProtocolName = "published" if settings.normalisation == "study" else "corrected"
    if settings.geometry == "experiment":
        return backbone.preprocessing_for(source, resize=224, crop=224, interpolation="bicubic")
    return backbone.preprocessing_for(source)


def _measure(
    data: ImageDataset,
    planned: PairPlan,
    clean: CleanFeatures,
    settings: ViewsSettings,
    *,
    spread: NDArray[np.float32] | None = None,
) -> Outcome:
    readable = np.isin(planned.pairs, clean.rows).all(axis=1)
    first, second = planned.pairs[readable].T
    kept = Plan(first, planned.plan.covariance, planned.plan.rows)
    gallery = clean.readable(planned.gallery)
    reference = Reference.build(clean, kept, settings, gallery=gallery, spread=spread)
    features = clean.at(first)
    values = reference.measure(second, features, second)
    places = np.searchsorted(gallery, second)
    ranks = {
        "retrieval": reference.whitened.ranks(reference.whitening.deviations(features), places),
        "raw retrieval": reference.raw.ranks(features, places),
    }
    counts = {
        "pairs": len(first),
        "available_pairs": planned.available,
        "without_partner": len(planned.lonely),
        "views": list(planned.names),
    }
    return Outcome(
        axis="",
        places=np.zeros(1),
        identities=np.zeros(1, dtype=np.bool_),
        values=values[:, :, None],
        reference=reference,
        baselines=baselines(reference, data, settings, pool=gallery, except_for=second),
        notes=_notes(data, planned, clean, reference, dropped=int((~readable).sum())),
        more={
            metric: counts
            | (
                {
                    "median_rank": float(np.nanmedian(ranks[metric])),
                    "mean_reciprocal_rank": float(np.nanmean(1 / ranks[metric])),
                }
                if metric in ranks
                else {}
            )
            for metric in METRICS
        },
    )


def _notes(
    data: ImageDataset,
    planned: PairPlan,
    clean: CleanFeatures,
    reference: Reference,
    *,
    dropped: int,
) -> tuple[str, ...]:
    notes = list(reference.whitening.report.notes)
    if len(planned.lonely):
        notes.append(f"{_listed(data, planned.lonely)} without a partner left out")
    if clean.unreadable:
        notes.append(
            f"{len(clean.unreadable)} unreadable images were skipped, and with them {dropped} of "
            f"{len(planned.pairs)} pairs"
        )
    return tuple(notes)
