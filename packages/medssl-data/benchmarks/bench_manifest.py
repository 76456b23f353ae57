"""Manifests of full-size CheXpert and ChestX-ray14 against merely reading the same table.

The tables are the stand-ins' own, with the owner's number of rows. Every run is a process of its
own, so that its peak memory is its own; both ways take turns. Run `python bench_manifest.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from medssl_data.console import Console
from medssl_data.synthetic.layouts import LAYOUTS

TARGET_SECONDS, TARGET_MIB = 3.0, 1024
TABLES = {"chexpert": "train.csv", "chestx": "Data_Entry_2017.csv"}

REPORT = """
unit = 2**20 if sys.platform == "darwin" else 2**10
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
print(rows, seconds, peak)
"""
OURS = f"""
import resource, sys, time
from medssl_data.catalog import load_manifest
begin = time.perf_counter()
rows = len(load_manifest(sys.argv[1], root=sys.argv[2]))
seconds = time.perf_counter() - begin
{REPORT}"""
PLAIN = f"""
import csv, pathlib, resource, sys, time
begin = time.perf_counter()
with pathlib.Path(sys.argv[1]).open(newline="") as stream:
    rows = len(list(csv.reader(stream))) - 1
seconds = time.perf_counter() - begin
{REPORT}"""


def write_tables(name: str, root: Path, rows: int) -> Path:
    """Write the tables of a stand-in without its pictures; give the main one."""
    plan = LAYOUTS[name].plan(rows, np.random.default_rng([0, 7]))
    for path, text in plan.tables.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root / name / TABLES[name]


def run_apart(script: str, *arguments: str) -> tuple[int, float, float]:
    """Run a script in a process of its own: rows, seconds, peak MiB."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    rows, seconds, peak = done.stdout.split()
    return int(rows), float(seconds), float(peak)


def measure(name: str, root: Path, rows: int, rounds: int) -> dict[str, object]:
    """Measure one data set in both ways, in turns."""
    table = write_tables(name, root, rows)
    plain, ours = [], []
    for _ in range(rounds):
        plain.append(run_apart(PLAIN, str(table)))
        ours.append(run_apart(OURS, name, str(root)))
    assert {found[0] for found in (*plain, *ours)} == {rows}
    seconds = [statistics.median(one[1] for one in way) for way in (plain, ours)]
    return {
        "dataset": name,
        "rows": rows,
        "csv_reader_s": round(seconds[0], 2),
        "manifest_s": round(seconds[1], 2),
        "ratio": round(seconds[1] / seconds[0], 1),
        "csv_reader_mib": round(max(one[2] for one in plain)),
        "manifest_mib": round(max(one[2] for one in ours)),
    }


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few rows, to see that it runs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [
            measure(name, Path(folder), 2000 if given.quick else LAYOUTS[name].full, given.rounds)
            for name in TABLES
        ]
    heads = tuple(outcomes[0])
    title = f"Targets: {TARGET_SECONDS:g} s and {TARGET_MIB} MiB"
    Console().table(heads, [tuple(one.values()) for one in outcomes], title=title)
    sys.stdout.write(json.dumps({"benchmark": "manifest", "outcomes": outcomes}) + "\n")


if __name__ == "__main__":
    main()
