"""Influences on disk and in pairs: the same again, damage found, units matched by name."""

import numpy as np
import pytest
from medssl_eval.errors import PredictionsError
from medssl_eval.experiments.influences import Influences, read_influences
from medssl_models import Provenance, Record
from scipy import stats


def made(units=6, seed=0, plan="plan", **changes):
    values = np.random.default_rng(seed).normal(size=units)
    fields = {
        "units": tuple(f"p{unit}" for unit in range(units)),
        "values": values,
        "strata": np.arange(units) % 2,
        "plan": plan,
    }
    return Influences(**(fields | changes))


def record(details):
    return Record(
        experiment="few-shot", metric="accuracy", value=1.0, details=details,
        provenance=Provenance(model="m", dataset="d"),
    )  # fmt: skip


def test_what_is_saved_is_read_again(tmp_path):
    before = made()
    entry = before.save(tmp_path / "results.predictions")
    after = read_influences(record({"influences": entry}), tmp_path / "results.jsonl")
    assert (after.units, after.plan, after.fingerprint) == (before.units, "plan", entry["sha256"])
    np.testing.assert_array_equal(after.values, before.values)
    np.testing.assert_array_equal(after.strata, before.strata)


def test_missing_damaged_foreign_and_outside_files_are_named(tmp_path):
    results = tmp_path / "results.jsonl"
    entry = made().save(tmp_path / "results.predictions")
    other = made(seed=1).save(tmp_path / "results.predictions")
    with pytest.raises(PredictionsError, match="has no influences"):
        read_influences(record({}), results)
    with pytest.raises(PredictionsError, match="outside the folder"):
        read_influences(record({"influences": {**entry, "file": "../x.npz"}}), results)
    with pytest.raises(PredictionsError, match="does not hold the influences"):
        read_influences(record({"influences": {**entry, "file": other["file"]}}), results)
    (tmp_path / entry["file"]).write_bytes(b"PK")
    with pytest.raises(PredictionsError, match="holds no influences"):
        read_influences(record({"influences": entry}), results)


def test_a_difference_matches_units_by_name():
    one, other = made(), made(seed=1)
    order = [3, 1, 0, 5, 4, 2]
    names = tuple(other.units[n] for n in order)
    turned = Influences(names, other.values[order], other.strata[order], "plan")
    np.testing.assert_allclose((one - turned).values, one.values - other.values)
    for stranger in (made(plan="other"), made(units=5)):
        with pytest.raises(PredictionsError, match="cannot be paired"):
            _ = one - stranger


def test_two_strata_are_welchs_degrees_of_freedom():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=9), rng.normal(size=14) * 3
    parts = [(x - x.mean()) / np.sqrt(len(x) * (len(x) - 1)) for x in (a, b)]
    found = Influences(
        tuple(map(str, range(23))), np.concatenate(parts), np.repeat([0, 1], [9, 14]), "plan"
    )
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.freedom == pytest.approx(welch.df)
    assert (a.mean() - b.mean()) / found.standard_error == pytest.approx(welch.statistic)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(PredictionsError, match="6 units, 2 values"):
        made(values=np.zeros(2))
    with pytest.raises(PredictionsError, match="each unit once"):
        Influences(("a", "a"), np.zeros(2), np.zeros(2, np.int64), "plan")
