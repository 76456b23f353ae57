from .engine.incremental import IncrementalNetwork as IncrementalNetwork
from .errors import SaliencyError as SaliencyError
from .experiments.map import map_images as map_images
from .experiments.randomisation import redraw as redraw
from .experiments.sanity import sanity_checks as sanity_checks
from .experiments.settings import SanitySettings as SanitySettings
from .experiments.settings import StatsSettings as StatsSettings
from .experiments.stats import map_statistics as map_statistics
from .images import ImageItem as ImageItem
from .images import from_dataset as from_dataset
from .images import from_files as from_files
from .maps.computing import SaliencyMap as SaliencyMap
from .maps.computing import compute_map as compute_map
from .maps.curves import deletion_and_insertion as deletion_and_insertion
from .maps.folder import MapFolder as MapFolder
from .maps.preparation import FeatureExtractor as FeatureExtractor
from .maps.preparation import prepare as prepare
from .maps.settings import MapSettings as MapSettings
from .maps.settings import PicturesSettings as PicturesSettings
from .maps.settings import preset as preset
from .maps.statistics import agreement as agreement
from .maps.statistics import attentive_diffusion as attentive_diffusion
from .maps.statistics import describe as describe
from .maps.storage import read_map as read_map

__version__: str
