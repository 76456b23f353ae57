"""A report over 200,000 records: seconds and memory, beside merely parsing the same file as JSON.

    python packages/medssl-eval/benchmarks/bench_report.py [RECORDS]

Target: under 20 seconds and 2 GiB for 200,000 few-shot records with 600 episodes each.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from medssl_eval.report import read_content, write_page
from medssl_models.experiments.record import Provenance, Record, package_versions

TARGET_SECONDS, TARGET_GIB = 20.0, 2.0


def write_records(path: Path, count: int) -> None:
    """Write records that differ in model, data set, seed and value."""
    rng = np.random.default_rng(0)
    first = Record(
        experiment="few-shot",
        metric="accuracy",
        unit="%",
        value=50.0,
        ci_low=49.0,
        ci_high=51.0,
        n=600,
        settings={"ways": 2, "shots": 5, "queries": 15, "episodes": 600},
        details={"correct": rng.integers(0, 30, 600).tolist(), "images": 240},
        notes=("control: untrained",),
        provenance=Provenance(
            model="", weights="0" * 64, images="1" * 64, versions=package_versions()
        ),
    )
    line = json.loads(first.model_dump_json())
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            value = float(rng.normal(60 + number % 20, 1))
            line |= {"value": value, "ci_low": value - 1, "ci_high": value + 1}
            line["provenance"] |= {
                "model": f"model-{number % 20}",
                "dataset": f"set-{number // 20 % 10}",
                "seed": number // 200,
            }
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def main() -> None:
    """Write, parse, report, and print what it took."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        write_records(path, count)
        start = time.perf_counter()
        with path.open("rb") as file:
            for line in file:
                json.loads(line)
        parsed = time.perf_counter() - start
        start = time.perf_counter()
        page = write_page(read_content([path]))
        took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"records                {count:,}")
    print(f"json.loads of all      {parsed:.1f} s")
    print(f"report                 {took:.1f} s ({took / parsed:.1f} x), target {TARGET_SECONDS} s")
    print(f"peak memory            {peak:.2f} GiB, target {TARGET_GIB} GiB")
    print(f"page                   {len(page) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
