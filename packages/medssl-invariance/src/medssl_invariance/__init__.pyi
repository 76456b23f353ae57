from .errors import InvarianceError as InvarianceError
from .experiments.settings import SyntheticSettings as SyntheticSettings
from .experiments.settings import ViewsSettings as ViewsSettings
from .experiments.synthetic import synthetic as synthetic
from .experiments.views import views as views
from .similarity import Gallery as Gallery
from .similarity import compare as compare
from .similarity import cosine as cosine
from .transforms.families import Family as Family
from .transforms.families import find_families as find_families
from .whitening import Whitening as Whitening
from .whitening import fit_whitening as fit_whitening

__version__: str
