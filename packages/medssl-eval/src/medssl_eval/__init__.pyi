from .errors import EvalError as EvalError
from .experiments.episodes import EpisodePlan as EpisodePlan
from .experiments.episodes import EpisodePool as EpisodePool
from .experiments.episodes import plan_episodes as plan_episodes
from .experiments.features import FeatureSet as FeatureSet
from .experiments.few_shot import few_shot as few_shot
from .experiments.finetune import finetune as finetune
from .experiments.knn import knn as knn
from .experiments.linear import linear as linear
from .experiments.settings import FewShotSettings as FewShotSettings
from .experiments.settings import FinetuneSettings as FinetuneSettings
from .experiments.settings import KnnSettings as KnnSettings
from .experiments.settings import LinearSettings as LinearSettings
from .experiments.settings import preset as preset

__version__: str
