"""Pretrained backbones for medical imaging: cards, checkpoints, preprocessing, features.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_models.backbone import Backbone as Backbone
    from medssl_models.backbone import create_model as create_model
    from medssl_models.card import ModelCard as ModelCard
    from medssl_models.card import WeightFile as WeightFile
    from medssl_models.catalog import available_models as available_models
    from medssl_models.catalog import control_of as control_of
    from medssl_models.catalog import list_models as list_models
    from medssl_models.catalog import model_card as model_card
    from medssl_models.errors import CheckpointError as CheckpointError
    from medssl_models.errors import InputRangeError as InputRangeError
    from medssl_models.errors import MissingWeightsError as MissingWeightsError
    from medssl_models.errors import ModelError as ModelError
    from medssl_models.errors import UnknownModelError as UnknownModelError
    from medssl_models.experiments.context import RunContext as RunContext
    from medssl_models.experiments.experiment import Experiment as Experiment
    from medssl_models.experiments.metric import Metric as Metric
    from medssl_models.experiments.record import Provenance as Provenance
    from medssl_models.experiments.record import Record as Record
    from medssl_models.experiments.record_store import Records as Records
    from medssl_models.experiments.record_store import append_records as append_records
    from medssl_models.experiments.record_store import read_records as read_records
    from medssl_models.experiments.runner import measure as measure
    from medssl_models.experiments.runner import run as run
    from medssl_models.features.extraction import ExtractionSettings as ExtractionSettings
    from medssl_models.features.extraction import FeatureTable as FeatureTable
    from medssl_models.features.extraction import ImageSource as ImageSource
    from medssl_models.features.extraction import extract as extract
    from medssl_models.features.runtime import fold_batchnorm as fold_batchnorm
    from medssl_models.features.store import FeatureStore as FeatureStore
    from medssl_models.files import home as home
    from medssl_models.preprocessing import Normalisation as Normalisation
    from medssl_models.preprocessing import Preprocessing as Preprocessing

__all__ = [
    "Backbone",
    "CheckpointError",
    "Experiment",
    "ExtractionSettings",
    "FeatureStore",
    "FeatureTable",
    "ImageSource",
    "InputRangeError",
    "Metric",
    "MissingWeightsError",
    "ModelCard",
    "ModelError",
    "Normalisation",
    "Preprocessing",
    "Provenance",
    "Record",
    "Records",
    "RunContext",
    "UnknownModelError",
    "WeightFile",
    "append_records",
    "available_models",
    "control_of",
    "create_model",
    "extract",
    "fold_batchnorm",
    "home",
    "list_models",
    "measure",
    "model_card",
    "read_records",
    "run",
]

__version__ = version("medssl-models")

_HOMES = {
    "Backbone": "backbone",
    "CheckpointError": "errors",
    "ExtractionSettings": "features.extraction",
    "FeatureStore": "features.store",
    "FeatureTable": "features.extraction",
    "ImageSource": "features.extraction",
    "InputRangeError": "errors",
    "MissingWeightsError": "errors",
    "ModelCard": "card",
    "ModelError": "errors",
    "Normalisation": "preprocessing",
    "Preprocessing": "preprocessing",
    "Provenance": "experiments.record",
    "Record": "experiments.record",
    "UnknownModelError": "errors",
    "WeightFile": "card",
    "append_records": "experiments.record_store",
    "available_models": "catalog",
    "control_of": "catalog",
    "create_model": "backbone",
    "extract": "features.extraction",
    "fold_batchnorm": "features.runtime",
    "home": "files",
    "list_models": "catalog",
    "model_card": "catalog",
    "read_records": "experiments.record_store",
    "run": "experiments.runner",
    "measure": "experiments.runner",
    "Experiment": "experiments.experiment",
    "Metric": "experiments.metric",
    "Records": "experiments.record_store",
    "RunContext": "experiments.context",
}


def __getattr__(name: str) -> object:
    """Import the module that owns a public name, on first use (PEP 562)."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
