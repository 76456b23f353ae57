from .card import DatasetCard as DatasetCard
from .card import Options as Options
from .card import Plugin as Plugin
from .catalog import dataset_card as dataset_card
from .catalog import list_datasets as list_datasets
from .catalog import load_dataset as load_dataset
from .dataset import ImageDataset as ImageDataset
from .errors import DataError as DataError
from .images.cache import PictureCache as PictureCache
from .images.decoding import Picture as Picture
from .images.decoding import read_image as read_image
from .images.decoding import read_rgb as read_rgb
from .images.reading import Reading as Reading
from .manifest import UNLABELLED as UNLABELLED
from .manifest import Manifest as Manifest
from .manifest import Row as Row

__version__: str
