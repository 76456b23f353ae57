"""Figures show names as they are."""

import pytest

pytest.importorskip("matplotlib")

from medssl_models.experiments.figures import new_figure, save_figure, take_literally

NAMES = ["a $ and a $b", r"$\frac$", "$x^2$", "plain"]


def drawn(names):
    figure = new_figure(4, 3)
    axes = figure.subplots()
    axes.plot([1, 10, 100], [0.1, 0.2, 0.3], label=names[0])
    axes.set_xscale("log")
    axes.set_yticks([0.1, 0.2, 0.3], names[1:])
    axes.set_title(names[0])
    axes.text(1, 0.1, names[1])
    axes.legend()
    return figure


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_dollar_in_a_name_is_no_mathematics(tmp_path, suffix):
    save_figure(drawn(NAMES), tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").stat().st_size > 1000


def test_numbers_on_a_logarithmic_axis_stay_powers():
    figure = drawn(NAMES)
    take_literally(figure)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert any(label.get_parse_math() for label in axes.get_xticklabels())
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == NAMES[1:3]
    assert not any(label.get_parse_math() for label in axes.get_yticklabels())
