"""Records as rows that people read: best first, with interval, controls and phantoms marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_eval.statistics.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_models import Record

__all__ = [
    "COLUMNS",
    "best_first",
    "dataset_label",
    "interval",
    "metric_table",
    "model_label",
    "rows",
    "setting_label",
]

COLUMNS = ("data set", "setting", "model", "metric", "value", "95 % interval", "images")


def best_first(records: Sequence[Record]) -> list[Record]:
    """Sort records: data sets and settings in the order in which they came, best models first."""
    datasets = _order(record.provenance.dataset for record in records)
    metrics = _order(record.metric for record in records)
    return sorted(
        records,
        key=lambda record: (
            datasets[record.provenance.dataset],
            metrics[record.metric],
            _setting_order(record),
            _badness(record),
            record.provenance.model,
        ),
    )


def rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give the cells of a table with `COLUMNS`, best first."""
    return [
        (
            dataset_label(record),
            setting_label(record),
            model_label(record),
            record.metric,
            f"{record.value:.2f}{' ' + record.unit if record.unit else ''}",
            interval(record),
            record.details.get("images", record.n),
        )
        for record in best_first(records)
    ]


def metric_table(
    records: Sequence[Record],
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Give columns and cells of a table with one line a run and one column a metric.

    Runs stand best first by the metric that came first.

    Args:
        records: Of experiments that give several metrics.
    """
    names = list(dict.fromkeys(record.metric for record in records))
    runs: dict[tuple[str, str, str], dict[str, Record]] = {}
    for record in best_first(records):
        run = (dataset_label(record), setting_label(record), model_label(record))
        runs.setdefault(run, {})[record.metric] = record
    units = {record.metric: record.unit for record in records}
    headings = [_METRIC_WORDS.get(name, name) for name in names]
    columns = [
        f"{word}, {units[name]}" if units[name] else word
        for name, word in zip(names, headings, strict=True)
    ]
    lines = [
        (*run, *(_short(found[name]) if name in found else None for name in names), _images(found))
        for run, found in runs.items()
    ]
    return ("data set", "setting", "model", *columns, "images"), lines


_METRIC_WORDS = {
    "balanced_accuracy": "balanced acc.",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "quadratic_kappa": "kappa (quadr.)",
    "brier": "Brier",
    "calibration_error": "cal. error",
}


def _short(record: Record) -> str:
    """Value and interval in one cell: percent with one decimal, pure numbers with three."""
    places = 1 if record.unit == "%" else 3
    text = f"{record.value:.{places}f}"
    if record.ci_low is None or record.ci_high is None:
        return text
    return f"{text} [{record.ci_low:.{places}f}, {record.ci_high:.{places}f}]"


def _images(found: Mapping[str, Record]) -> object:
    record = next(iter(found.values()))
    return record.details.get("images", record.n)


def model_label(record: Record) -> str:
    """Name the model; an untrained control says so."""
    return record.provenance.model + (" (control)" if record.details.get("control") else "")


def dataset_label(record: Record) -> str:
    """Name the data set; a phantom says so."""
    return record.provenance.dataset + (" (phantom)" if record.details.get("synthetic") else "")


def setting_label(record: Record) -> str:
    """Say in a few words what was done."""
    settings = record.settings
    if record.experiment == "few-shot":
        return f"{settings['ways']}-way {settings['shots']}-shot"
    if record.experiment == "knn":
        return _knn_label(record)
    fraction = settings.get("fraction")
    if isinstance(fraction, int | float):
        return f"{record.experiment}, {'all' if fraction == 1 else f'{100 * fraction:g} %'}"
    return record.experiment


def _knn_label(record: Record) -> str:
    chosen = record.settings.get("neighbours")
    votes = "k by validation" if chosen == "validated" else f"k = {chosen}"
    return votes if record.settings.get("evaluation") == "test_part" else f"{votes}, folds"


def interval(record: Record) -> str:
    """Write the interval; empty where there is none."""
    if record.ci_low is None or record.ci_high is None:
        return ""
    return f"{record.ci_low:.2f} to {record.ci_high:.2f}"


def _badness(record: Record) -> float:
    known = METRICS.get(record.metric)
    return -record.value if known is None or known.higher_is_better else record.value


def _setting_order(record: Record) -> tuple[float, ...]:
    return tuple(
        float(value)
        for name in ("ways", "shots", "fraction")
        if isinstance(value := record.settings.get(name), int | float)
    )


def _order(names: object) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}  # type: ignore[call-overload]
