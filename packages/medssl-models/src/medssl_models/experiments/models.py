"""Names of models that an experiment is to run: are all of them here, and which controls belong.

Everything is asked of cards; no weights are read and no torch is imported.
"""

from medssl_models.catalog import control_of
from medssl_models.hub.library import check_models

__all__ = ["check_models", "control_of"]
