"""What a run leaves on disk: one folder with its identity, trace, snapshots and result.

Every file is written beside its target and renamed; only the trace grows in place, a line at a
time, and a torn last line is ignored. Nothing here optimises.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from medssl_models.checkpoints.run_state import read_run_state, write_run_state
from medssl_models.errors import CheckpointError
from medssl_models.files import clear_drafts, open_plain, write_atomically
from medssl_models.plain_json import canonical_json, plain
from PIL import Image

from medssl_dip.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

__all__ = [
    "RunFolder",
    "RunIdentity",
    "TraceRow",
    "find_runs",
    "load_picture",
    "read_finished",
    "read_json",
    "read_result",
    "save_picture",
    "write_json",
]

_KIND = "reconstruction"
_STATE = re.compile(r"state-(\d+)\.safetensors")
_KEPT_STATES = 2
"""A kill may fall between the states of two runs of one batch; then all go back to the older."""


@dataclass(frozen=True)
class RunIdentity:
    """All that decides a run's result.

    Args:
        picture: Name of the picture, for people.
        pixels: SHA-256 of what is reconstructed.
        model: The model's name.
        weights: The model's fingerprint.
        preprocessing: Fingerprint of the way from picture to input.
        layer: The network's own name of the layer.
        seed: Of the prior.
        precision: `fp32` or `bf16`.
        settings: The settings as plain JSON.
    """

    picture: str
    pixels: str
    model: str
    weights: str
    preprocessing: str
    layer: str
    seed: int
    precision: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A folder's name that people can read and that no other run has."""
        digest = hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:8]
        words = (self.picture, self.model, self.layer, f"seed{self.seed}", digest)
        return "--".join(re.sub(r"[^A-Za-z0-9._-]+", "_", word).strip("._") for word in words)


@dataclass(frozen=True)
class TraceRow:
    """One step of a run.

    Args:
        step: Updates made before.
        loss: Before the update.
        psnr: Of the picture against the original, dB; NaN where it was not measured.
        ssim: The same; 1 is the original.
    """

    step: int
    loss: float
    psnr: float = math.nan
    ssim: float = math.nan


class RunFolder:
    """The folder of one run.

    Args:
        root: Where the runs lie.
        identity: Of the run.
    """

    def __init__(self, root: Path, identity: RunIdentity) -> None:
        self.identity = identity
        self.path = root / identity.name

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` kept; None while the run is not finished."""
        return read_result(self.path)

    def begin(self, original: Tensor) -> None:
        """Make the folder, with the identity and the (3, H, W) original in [0, 1]."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "run.json", asdict(self.identity))
        save_picture(self.path / "original.png", original)

    def clear(self) -> None:
        """Forget trace, snapshots and result."""
        for pattern in ("result.json", "trace.csv", "state-*", "step-*.png", "reconstruction.*"):
            for path in self.path.glob(pattern):
                path.unlink()

    # ------------------------------------------------------------------------------------- trace

    def trace(self) -> list[TraceRow]:
        """Read the trace as far as it is whole."""
        path = self.path / "trace.csv"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
        return [row for line in lines if (row := _row(line)) is not None]

    def write_trace(self, rows: Iterable[TraceRow]) -> None:
        """Replace the trace."""
        header = ",".join(TraceRow.__dataclass_fields__) + "\n"
        text = header + "".join(map(_line, rows))
        write_atomically(self.path / "trace.csv", text.encode())

    def extend_trace(self, rows: Iterable[TraceRow]) -> None:
        """Append to the trace."""
        with (self.path / "trace.csv").open("a", encoding="utf-8", newline="") as file:
            file.write("".join(map(_line, rows)))

    # --------------------------------------------------------------------------------- snapshots

    def snapshot(self, step: int, tensors: Mapping[str, Tensor], picture: Tensor) -> None:
        """Keep a state, and the (3, H, W) picture in [0, 1] that it draws."""
        save_picture(self.path / f"step-{step:06d}.png", picture)
        path = self.path / f"state-{step:06d}.safetensors"
        write_run_state(path, tensors, {"step": step}, kind=_KIND)

    def steps(self) -> list[int]:
        """The steps whose states are here, ascending."""
        found = (_STATE.fullmatch(path.name) for path in self.path.glob("state-*"))
        return sorted(int(match[1]) for match in found if match)

    def state(self, step: int) -> dict[str, Tensor]:
        """Read a state.

        Raises:
            RunError: It is damaged.
        """
        path = self.path / f"state-{step:06d}.safetensors"
        try:
            return read_run_state(path, kind=_KIND)[0]
        except CheckpointError as error:
            message = f"{error}; remove it to go on from an older one"
            raise RunError(message) from error

    def thin(self) -> None:
        """Remove all states but the newest ones."""
        for step in self.steps()[:-_KEPT_STATES]:
            (self.path / f"state-{step:06d}.safetensors").unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------ result

    def finish(self, result: Mapping[str, object]) -> None:
        """Keep the result, and nothing but it."""
        write_json(self.path / "result.json", result)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a finished run does not need: states, and what killed processes left."""
        for path in self.path.glob("state-*"):
            path.unlink(missing_ok=True)
        clear_drafts(self.path)


def find_runs(root: Path) -> list[Path]:
    """List the folders of finished runs below a folder, sorted by name."""
    return sorted(path.parent for path in root.glob("*/result.json"))


def read_finished(folder: Path) -> tuple[RunIdentity, dict[str, Any]]:
    """Read what a finished run was, and what it kept.

    Raises:
        RunError: The folder is damaged, or not that of a finished run.
    """
    run, result = read_json(folder / "run.json"), read_result(folder)
    names = set(RunIdentity.__dataclass_fields__)
    if run is None or result is None or names - run.keys() or "file" not in result:
        message = f"{folder}: not the folder of a finished run; remove it"
        raise RunError(message)
    return RunIdentity(**{name: run[name] for name in names}), result


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read what a finished run kept; None while it is not finished.

    Version 0.1 wrote the names of metrics with hyphens.

    Raises:
        RunError: The file is not a JSON object.
    """
    result = read_json(folder / "result.json")
    if result and "fidelity" in result:
        result["fidelity"] = {k.replace("-", "_"): v for k, v in result["fidelity"].items()}
    return result


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no file.

    Raises:
        RunError: The file is not a JSON object.
    """
    if not path.exists():
        return None
    try:
        with open_plain(path) as file:
            value = json.load(file)
    except (ValueError, RecursionError) as error:
        message = f"{path}: not JSON ({error}); remove the folder to begin anew"
        raise RunError(message) from error
    if not isinstance(value, dict):
        message = f"{path}: not a JSON object; remove the folder to begin anew"
        raise RunError(message)
    return value


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, beside its target first."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def save_picture(path: Path, picture: Tensor, *, rounded: bool = True) -> None:
    """Write a picture in the format of the file's suffix.

    Args:
        path: A `.png`, `.tif` or `.jpg` file; JPEG has Pillow's own quality, 75.
        picture: (3, H, W) float32 in [0, 1].
        rounded: To the nearest of 256 levels; else truncated.
    """
    levels = picture.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy() * 255
    pixels = (np.rint(levels) if rounded else levels).astype(np.uint8)
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}.get(path.suffix.casefold(), "JPEG")
    Image.fromarray(pixels).save(buffer, kind)
    write_atomically(path, buffer.getvalue())


def load_picture(path: Path) -> Tensor:
    """Read a picture that `save_picture` wrote: (3, H, W) float32 in [0, 1]."""
    import torch

    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32) / 255


def _line(row: TraceRow) -> str:
    cells = ("" if value != value else repr(value) for value in asdict(row).values())  # noqa: PLR0124 # NaN
    return ",".join(cells) + "\n"


def _row(line: str) -> TraceRow | None:
    cells: Sequence[str] = next(csv.reader([line]), [])
    if not line.endswith("\n") or len(cells) != len(TraceRow.__dataclass_fields__):
        return None
    try:
        numbers = [float(cell) if cell else math.nan for cell in cells[1:]]
        return TraceRow(int(cells[0]), *numbers)
    except ValueError:
        return None
