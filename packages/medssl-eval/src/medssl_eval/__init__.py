"""How well pretrained backbones separate the classes of your images.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_eval.errors import EvalError as EvalError
    from medssl_eval.experiments.episodes import EpisodePlan as EpisodePlan
    from medssl_eval.experiments.episodes import EpisodePool as EpisodePool
    from medssl_eval.experiments.episodes import plan_episodes as plan_episodes
    from medssl_eval.experiments.features import FeatureSet as FeatureSet
    from medssl_eval.experiments.few_shot import few_shot as few_shot
    from medssl_eval.experiments.finetune import finetune as finetune
    from medssl_eval.experiments.knn import knn as knn
    from medssl_eval.experiments.linear import linear as linear
    from medssl_eval.experiments.settings import FewShotSettings as FewShotSettings
    from medssl_eval.experiments.settings import FinetuneSettings as FinetuneSettings
    from medssl_eval.experiments.settings import KnnSettings as KnnSettings
    from medssl_eval.experiments.settings import LinearSettings as LinearSettings
    from medssl_eval.experiments.settings import preset as preset

__version__ = version("medssl-eval")

_HOMES = {
    "EpisodePlan": "experiments.episodes",
    "EpisodePool": "experiments.episodes",
    "EvalError": "errors",
    "FeatureSet": "experiments.features",
    "FewShotSettings": "experiments.settings",
    "FinetuneSettings": "experiments.settings",
    "KnnSettings": "experiments.settings",
    "LinearSettings": "experiments.settings",
    "few_shot": "experiments.few_shot",
    "finetune": "experiments.finetune",
    "knn": "experiments.knn",
    "linear": "experiments.linear",
    "plan_episodes": "experiments.episodes",
    "preset": "experiments.settings",
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
