"""Converting full-width checkpoints, and loading the result against the original with key surgery.

The files are written here with the published names and random weights: MoCo's torch file, SimCLR's
TensorFlow checkpoint, BYOL's pickle (three sets of weights with heads of the published sizes, in
protocol 2: some 640 MiB). Each conversion runs in a process of its own, so that its peak memory is
its own. `copy` is what the machine needs at that moment to copy and hash the file, nothing else.
Run it as `python bench_conversion.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from medssl_models import create_model
from medssl_models.catalog import model_card
from medssl_models.console import Console
from medssl_models.networks.trunks import build_trunk
from medssl_models.testing.checkpoints import (
    byol_tree,
    resnet_state,
    simclr_variables,
    write_byol_pickle,
    write_tf_zip,
)

LIMITS = {"moco-v2": 4.0, "simclr-v1": 4.0, "byol": 10.0}
GIB = 2**30
LOAD_ROUNDS = 9
LOAD_TARGET = 3.0


def byol_heads() -> dict[str, dict[str, np.ndarray]]:
    """BYOL's heads in their published sizes; a third of the file."""
    rng = np.random.default_rng(1)
    sizes = {
        "classifier": (2048, 1000),
        "projector/linear": (2048, 4096),
        "projector/linear_1": (4096, 256),
        "predictor/linear": (256, 4096),
        "predictor/linear_1": (4096, 256),
    }
    return {
        name: {"w": rng.standard_normal(size, np.float32), "b": np.zeros(size[1], np.float32)}
        for name, size in sizes.items()
    }


def write_sources(folder: Path) -> dict[str, Path]:
    """Write one file for each container, at full width."""
    state = resnet_state(width=64)
    named = {f"module.encoder_q.{k}": torch.from_numpy(v) for k, v in state.items()}
    keys = {
        name.replace("encoder_q", "encoder_k"): tensor.clone() for name, tensor in named.items()
    }
    moco = folder / "moco.pth.tar"
    queue = {"module.queue": torch.randn(128, 65536), "module.queue_ptr": torch.zeros(1)}
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": named | keys | queue}, moco)
    bundle = folder / "bundle"
    bundle.mkdir()
    simclr = write_tf_zip(folder / "simclr.zip", simclr_variables(state), folder=bundle)
    params, averages = byol_tree(state)
    byol = write_byol_pickle(folder / "byol.pkl", params | byol_heads(), averages)
    return {"moco-v2": moco, "simclr-v1": simclr, "byol": byol}


def peak_memory() -> int:
    """Largest memory of this process so far, in bytes, on Linux.

    `getrusage` is of no use here: a child process inherits the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def copy_and_hash(source: Path, out: Path) -> float:
    """Give the seconds of the least that any conversion does to a file."""
    begin = time.perf_counter()
    shutil.copyfile(source, out)
    with out.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.perf_counter() - begin


def convert_here(name: str, source: Path, out: Path) -> None:
    """Convert in this process and say how long it took and how much memory it needed."""
    from medssl_models.conversion.convert import convert

    build_trunk("resnet18")  # what is imported once does not count
    before = peak_memory()
    begin = time.perf_counter()
    convert(source, model_card(name), out)
    seconds = time.perf_counter() - begin
    peak = peak_memory()
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak, "before": before}))


def convert_apart(name: str, source: Path, out: Path) -> dict[str, float]:
    """Convert in a new process."""
    command = [sys.executable, __file__, name, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def load_plainly(source: Path) -> torch.nn.Module:
    """Load as a script does: torch.load, key surgery, a network of torchvision."""
    import torchvision

    whole = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "module.encoder_q."
    state = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    network = torchvision.models.resnet50(weights=None)
    network.load_state_dict(state, strict=False)
    network.fc = torch.nn.Identity()
    return network.eval()


def seconds_of(load: object) -> float:
    """Give the seconds of one call."""
    begin = time.perf_counter()
    load()  # type: ignore[operator]
    return time.perf_counter() - begin


def main() -> None:
    """Write the files, convert each, and load one of them in both ways, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = write_sources(folder)
        rows = []
        for model, source in sources.items():
            found = convert_apart(model, source, folder / "out" / model)
            size = source.stat().st_size
            least = copy_and_hash(source, folder / "copy")
            extra = (found["peak"] - size) / GIB
            rows.append(
                (
                    model,
                    f"{size / 2**20:.0f}",
                    f"{found['seconds']:.1f}",
                    f"{LIMITS[model]:.0f}",
                    f"{least:.1f}",
                    f"{found['peak'] / GIB:.2f}",
                    f"{extra:.2f}",
                    f"{found['before'] / GIB:.2f}",
                )
            )
        columns = (
            "model",
            "MiB",
            "seconds",
            "limit",
            "copy",
            "peak GiB",
            "peak - file",
            "at start",
        )
        Console().table(columns, rows, title="Converting; the peak may exceed the file by 1 GiB")
        converted = str(folder / "out" / "moco-v2")
        turns = [
            (
                seconds_of(lambda: load_plainly(sources["moco-v2"])),
                seconds_of(lambda: create_model(converted)),
            )
            for _ in range(LOAD_ROUNDS)
        ]
        plain, ours = (statistics.median(turn[i] for turn in turns) for i in range(2))
        ratio = statistics.median(turn[0] / turn[1] for turn in turns)
        Console().table(
            ("torch.load and key surgery, s", "create_model, s", "ratio", "target"),
            [(f"{plain:.3f}", f"{ours:.3f}", f"{ratio:.1f}", f"{LOAD_TARGET:.0f}")],
            title=f"Loading a ResNet-50, {os.cpu_count()} cores",
        )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        convert_here(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
