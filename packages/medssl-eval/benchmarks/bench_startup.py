"""How long every installed medssl command line takes to answer `--help` and `list`.

    python packages/medssl-eval/benchmarks/bench_startup.py

The baseline of the same run is what importing torch alone would cost. Target: under 1 second.
"""

import statistics
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import entry_points
from pathlib import Path

REPEATS = 5
TARGET_SECONDS = 1.0
LISTS = {"medssl-models", "medssl-data"}


def seconds(*command: str) -> float:
    """Time one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Time all commands in turns and print medians."""
    scripts = Path(sysconfig.get_path("scripts"))
    names = sorted(
        entry.name
        for entry in entry_points(group="console_scripts")
        if entry.name.startswith("medssl-")
    )
    commands = {f"{name} --help": (str(scripts / name), "--help") for name in names}
    commands |= {f"{name} list": (str(scripts / name), "list") for name in names if name in LISTS}
    commands["import torch"] = (sys.executable, "-c", "import torch, torchvision")
    times: dict[str, list[float]] = {title: [] for title in commands}
    for _ in range(REPEATS):
        for title, command in commands.items():
            times[title].append(seconds(*command))
    baseline = statistics.median(times["import torch"])
    print(f"{'command':28} {'seconds':>8} {'of import torch':>16}")
    for title, found in times.items():
        median = statistics.median(found)
        verdict = "" if median < TARGET_SECONDS or title == "import torch" else "  over the target"
        print(f"{title:28} {median:8.2f} {median / baseline:16.0%}{verdict}")
    print(f"target: {TARGET_SECONDS} s; medians of {REPEATS} runs in turns")


if __name__ == "__main__":
    main()
