"""One experiment over all pairs of models and data sets, here and now, one after the other.

Names and sizes are checked before the first image is opened; each pair's records are written as
soon as they are there, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from medssl_eval.experiments.features import Means
from medssl_eval.experiments.predictions import predictions_folder

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record

__all__ = ["Sweep", "known_records", "open_datasets"]

Check = Callable[["ImageDataset"], None]
Evaluate = Callable[["Backbone", "ImageDataset", Means], "list[Record]"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sweep:
    """Models and data sets, and where the records go.

    Attributes:
        models: Names, in the order in which they are run; a name counts once.
        datasets: Data sets, opened.
        results: The file that records are appended to; None keeps none.
        networks: `published` pads where the study's networks did; see the `padding` setting.
        force: Run what has a record already, and extract what has features already.
        say: Takes notes on how far it is.
        warn: Takes warnings.
    """

    models: Sequence[str]
    datasets: Sequence[ImageDataset]
    results: Path | None = None
    networks: Literal["published", "corrected"] = "corrected"
    force: bool = False
    say: Say = lambda _: None
    warn: Say = lambda _: None

    def run(self, evaluate: Evaluate, *, check: Check, means: Means) -> list[Record]:
        """Evaluate every model on every data set.

        Args:
            evaluate: Gives the records of one pair; those that it finds in `means.known` it may
                return as they are.
            check: Raises where a data set cannot carry the experiment.
            means: How features are computed and kept.

        Returns:
            All records, in the order of models and data sets.

        Raises:
            UnknownModelError: A name that no model bears, before anything is computed.
            MissingWeightsError: Weights that must be brought, likewise.
            InfeasibleError: From `check`, likewise.
        """
        from medssl_models import append_records, create_model
        from medssl_models.experiments.models import check_models

        check_models(self.models)
        for data in self.datasets:
            check(data)
        known = {} if self.force or self.results is None else known_records(self.results, self.warn)
        if self.results is not None:
            means = replace(means, predictions=predictions_folder(self.results))
        means = replace(means, known=known)
        records: list[Record] = []
        for name in dict.fromkeys(self.models):
            backbone = create_model(name, protocol=self.networks)
            for data in self.datasets:
                found = evaluate(backbone, data, means)
                fresh = [record for record in found if record.key not in known]
                if self.results is not None:
                    append_records(self.results, fresh)
                if not fresh:
                    self.say(f"{name} on {data.name}: done before; --force does it again")
                records += found
        return records


def known_records(path: Path, warn: Say = lambda _: None) -> Mapping[str, Record]:
    """Read the records of a results file by key, the newest of equal ones; a missing file has none.

    Args:
        path: A file of `append_records`.
        warn: Takes a note for each line that is no record.
    """
    from medssl_models import read_records

    if not path.exists():
        return {}
    file = read_records(path)
    for note in file.notes:
        warn(note)
    return {record.key: record for record in file.records}


def open_datasets(
    names: Sequence[str],
    *,
    root: Path,
    labels: Literal["study", "corrected"],
    policy: str | None = None,
    split: str | None = None,
    seed: int = 0,
    trains: bool = False,
) -> list[ImageDataset]:
    """Open data sets by name; no image is decoded.

    Args:
        names: As for `medssl_data.load_dataset`; a name counts once.
        root: The folder that holds the data sets.
        labels: Whose label policy: the experiment's `labels` setting.
        policy: Name of a label policy; None takes the one that `labels` decides.
        split: As for `medssl_data.load_dataset`.
        seed: Of a split by patient.
        trains: Whether the experiment fits a classifier: the study labelled some sets otherwise
            where it did.
    """
    from medssl_data import load_dataset

    protocol: Literal["published", "corrected"] = "published" if labels == "study" else "corrected"

    def opened(name: str, policy: str | None) -> ImageDataset:
        return load_dataset(
            name, root=root, protocol=protocol, labels=policy, split=split, seed=seed
        )

    found = []
    for name in dict.fromkeys(names):
        data = opened(name, policy)
        of_training = data.card.published_training_labels if data.card is not None else ""
        if trains and labels == "study" and policy is None and of_training:
            data = opened(name, of_training)
        found.append(data)
    return found
