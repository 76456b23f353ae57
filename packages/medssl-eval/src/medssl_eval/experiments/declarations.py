"""All experiments that are installed, by name: ours and those of other packages.

Each is an entry point of the group `medssl.probes`, ours too. One that cannot be loaded says so
when it is asked for, and harms no other.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from medssl_models.experiments import settings as presets
from medssl_models.probes import GROUP, ProbePlugin
from medssl_models.suggestions import did_you_mean

from medssl_eval.errors import UnknownNameError
from medssl_eval.experiments.settings import (
    FewShotSettings,
    FinetuneSettings,
    KnnSettings,
    LinearSettings,
    preset,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Record
    from medssl_models.experiments.settings import Difference
    from medssl_models.probes import ProtocolName, Work

    from medssl_eval.experiments.features import Means
    from medssl_eval.experiments.settings import Preset

__all__ = [
    "FEW_SHOT",
    "FINETUNE",
    "KNN",
    "LINEAR",
    "describe",
    "differences",
    "experiment_names",
    "find_experiment",
]

OWN = ("few-shot", "linear", "knn", "finetune")


def experiment_names() -> list[str]:
    """Name all experiments, ours first; nothing is imported."""
    names = {entry.name for entry in entry_points(group=GROUP)}
    return [*(name for name in OWN if name in names), *sorted(names.difference(OWN))]


def find_experiment(name: str) -> ProbePlugin:
    """Find an experiment by name.

    Raises:
        UnknownNameError: No installed package brings it, several do, or it cannot be loaded.
    """
    entries = list(entry_points(group=GROUP, name=name))
    if not entries:
        names = experiment_names()
        hint = did_you_mean(name, names, close_only=True)
        message = (
            f"unknown experiment {name!r}{hint} (there are {', '.join(names)}; saliency-stats, "
            "reconstruction, invariance and views come with the packages of those names)"
        )
        raise UnknownNameError(message)
    if len({entry.value for entry in entries}) > 1:
        message = f"experiment {name!r} is brought by {', '.join(e.value for e in entries)}"
        raise UnknownNameError(message)
    try:
        found = entries[0].load()
    except Exception as error:  # another package's code may raise anything
        message = f"experiment {name!r} is broken: {type(error).__name__}: {error}"
        raise UnknownNameError(message) from error
    if not isinstance(found, ProbePlugin):
        message = f"experiment {name!r} is broken: {entries[0].value} is no ProbePlugin"
        raise UnknownNameError(message)
    return found


def differences(name: str) -> list[Difference]:
    """List what the two presets of an experiment set differently, and why.

    Raises:
        UnknownNameError: As in `find_experiment`.
    """
    plugin = find_experiment(name)
    return presets.differences(
        plugin.preset("published", {}), plugin.preset("corrected", {}), plugin.reasons
    )


def describe(name: str, protocol: ProtocolName) -> list[tuple[str, object, str]]:
    """List each field of a preset: name, value, what it decides.

    Raises:
        UnknownNameError: As in `find_experiment`.
    """
    plugin = find_experiment(name)
    return presets.describe(plugin.preset(protocol, {}), plugin.reasons)


# ------------------------------------------------------------------------------------------ ours


def _preset_of(settings: type[Preset]) -> Callable[[ProtocolName, Mapping[str, object]], Preset]:
    return lambda protocol, changes: preset(settings, protocol, **changes)


def _means(work: Work) -> Means:
    from medssl_eval.experiments.features import Means
    from medssl_eval.experiments.predictions import predictions_folder

    folder = predictions_folder(work.results)
    return Means(work.extraction, work.store, None, work.known, folder)


def _prepare(backbone: Backbone, _: ImageDataset, settings: Any) -> Preprocessing:  # noqa: ANN401 # linear's or k-NN's
    from medssl_eval.experiments.features import prepare

    return prepare(backbone, settings)


def _prepare_few_shot(
    backbone: Backbone, data: ImageDataset, settings: FewShotSettings
) -> Preprocessing:
    from medssl_eval.experiments.few_shot import few_shot_preprocessing

    return few_shot_preprocessing(backbone, data, settings)


def _check_few_shot(data: ImageDataset, settings: FewShotSettings) -> None:
    from medssl_eval.experiments.few_shot import feasible

    feasible(data, settings)


def _check_linear(data: ImageDataset, settings: LinearSettings) -> None:
    from medssl_eval.experiments.linear import separable

    separable(data, settings)


def _check_knn(data: ImageDataset, settings: KnnSettings) -> None:
    from medssl_eval.experiments.knn import foldable

    foldable(data, settings)


def _check_finetune(data: ImageDataset, settings: FinetuneSettings) -> None:
    from medssl_eval.experiments.finetune import trainable

    trainable(data, settings)


def _run_few_shot(
    backbone: Backbone, data: ImageDataset, settings: FewShotSettings, work: Work
) -> list[Record]:
    from medssl_eval.experiments.few_shot import few_shot

    return few_shot(backbone, data, settings=settings, means=_means(work))


def _run_linear(
    backbone: Backbone, data: ImageDataset, settings: LinearSettings, work: Work
) -> list[Record]:
    from medssl_eval.experiments.linear import linear

    return linear(backbone, data, settings=settings, means=_means(work))


def _run_knn(
    backbone: Backbone, data: ImageDataset, settings: KnnSettings, work: Work
) -> list[Record]:
    from medssl_eval.experiments.knn import knn

    return knn(backbone, data, settings=settings, means=_means(work))


def _run_finetune(
    backbone: Backbone, data: ImageDataset, settings: FinetuneSettings, work: Work
) -> list[Record]:
    from medssl_eval.experiments.finetune import Keep, finetune

    keep = Keep(work.results.parent / "finetuned")
    return finetune(backbone, data, settings=settings, means=_means(work), keep=keep)


def _training_passes(_: ImageDataset, settings: FinetuneSettings) -> int:
    from medssl_eval.experiments.finetune import candidates

    runs = len(settings.fractions) * (len(candidates()) if settings.search else 1)
    return 3 * runs * settings.steps * settings.batch_size


FEW_SHOT = ProbePlugin(
    _preset_of(FewShotSettings), _run_few_shot, _check_few_shot, _prepare_few_shot
)
LINEAR = ProbePlugin(_preset_of(LinearSettings), _run_linear, _check_linear, _prepare, trains=True)
KNN = ProbePlugin(_preset_of(KnnSettings), _run_knn, _check_knn, _prepare)
FINETUNE = ProbePlugin(
    _preset_of(FinetuneSettings),
    _run_finetune,
    _check_finetune,
    passes=_training_passes,
    trains=True,
)
