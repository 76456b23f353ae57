"""The local folder of models: where it lies, what it holds, how files get into it.

Importing this module imports no torch; reading and writing weights happens in the functions.
"""

import os
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["home"]


def home() -> Path:
    """Folder of everything that is kept: `MEDSSL_HOME`, else the platform's cache folder.

    Models lie in `home() / "models" / NAME`, features in `home() / "features"`. The folder is
    not created here, so that a read-only home works for reading.
    """
    chosen = os.environ.get("MEDSSL_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("medssl")
