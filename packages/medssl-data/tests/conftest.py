"""Small trees and tables that the tests read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medssl_data.synthetic.phantom import write_phantom
from PIL import Image


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes of three and two grey pictures."""
    for name, number in (("ill", 3), ("healthy", 2)):
        folder = tmp_path / "mine" / name
        folder.mkdir(parents=True)
        for index in range(number):
            grey = np.full((8, 10), 20 * index + len(name), np.uint8)
            Image.fromarray(grey).save(folder / f"{index}.png")
    return tmp_path / "mine"


@pytest.fixture
def shared() -> Path:
    """A folder of real files beside the repository; it is no part of the project."""
    folder = Path(__file__).parents[4] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared beside the repository")
    return folder


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a stand-in when it is first asked for and gives the root of all; read only."""
    root = tmp_path_factory.mktemp("stand-ins")

    def write(name: str) -> Path:
        if not (root / name).is_dir():
            write_phantom(name, root, {})
        return root

    return write
