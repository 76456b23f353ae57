from .errors import DipError as DipError
from .experiments.reconstruct import reconstruct as reconstruct
from .feature_extractor import FeatureExtractor as FeatureExtractor
from .gallery import draw_gallery as draw_gallery
from .images import ImageItem as ImageItem
from .inversion.objective import Objective as Objective
from .inversion.optimisation import Inversion as Inversion
from .inversion.reconstruction import Reconstruction as Reconstruction
from .inversion.reconstruction import invert as invert
from .inversion.run_summary import RunSummary as RunSummary
from .inversion.run_summary import summarise as summarise
from .perceptual.comparison import compare as compare
from .perceptual.fidelity import Fidelity as Fidelity
from .perceptual.fidelity import measure as measure
from .perceptual.lpips import LPIPS as LPIPS
from .perceptual.lpips import load_lpips as load_lpips
from .prior import Hourglass as Hourglass
from .settings import GeneratorSettings as GeneratorSettings
from .settings import ReconstructionOptions as ReconstructionOptions
from .settings import ReconstructionSettings as ReconstructionSettings
from .settings import settings_for as settings_for

__version__: str
