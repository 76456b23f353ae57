"""How well pretrained backbones separate the classes of your images.

Public names are resolved on first use, so that importing the package does not import torch.
Experiments are the exception: a function that bears its module's name must be bound before another
import binds the module to it, and these modules import torch only when they compute.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from medssl_eval.few_shot import few_shot
from medssl_eval.finetune import finetune
from medssl_eval.knn import knn
from medssl_eval.linear import linear

if TYPE_CHECKING:
    from medssl_eval.episodes import EpisodePlan as EpisodePlan
    from medssl_eval.episodes import EpisodePool as EpisodePool
    from medssl_eval.episodes import plan_episodes as plan_episodes
    from medssl_eval.errors import EvalError as EvalError
    from medssl_eval.features import FeatureSet as FeatureSet
    from medssl_eval.features import Means as Means
    from medssl_eval.protocols import FewShotSettings as FewShotSettings
    from medssl_eval.protocols import FinetuneSettings as FinetuneSettings
    from medssl_eval.protocols import KnnSettings as KnnSettings
    from medssl_eval.protocols import LinearSettings as LinearSettings
    from medssl_eval.protocols import preset as preset

__version__ = version("medssl-eval")

_HOMES = {
    "EpisodePlan": "episodes",
    "EpisodePool": "episodes",
    "EvalError": "errors",
    "FeatureSet": "features",
    "FewShotSettings": "protocols",
    "FinetuneSettings": "protocols",
    "KnnSettings": "protocols",
    "LinearSettings": "protocols",
    "Means": "features",
    "plan_episodes": "episodes",
    "preset": "protocols",
}

__all__ = [
    "EpisodePlan",
    "EpisodePool",
    "EvalError",
    "FeatureSet",
    "FewShotSettings",
    "FinetuneSettings",
    "KnnSettings",
    "LinearSettings",
    "Means",
    "few_shot",
    "finetune",
    "knn",
    "linear",
    "plan_episodes",
    "preset",
]


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
