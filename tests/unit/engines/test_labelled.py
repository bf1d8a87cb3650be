"""Pages with labels: one model's samples, summed over engines where they are counts, never where they are ratios."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.labelled import Page

PAGE = """
# HELP running Requests.
# TYPE running gauge
running{engine="0",model_name="chat"} 4.0
running{engine="1",model_name="chat"} 3.0
running{engine="0",model_name="other"} 50.0
running_created{engine="0",model_name="chat"} 1.7954e+09
usage{engine="0",model_name="chat"} 0.25
usage{engine="1",model_name="chat"} 0.75
info{engine="0",size="10"} 1.0
old{model_name="chat"} 9
"""
NAMES = ("running", "usage", "info", "old", "gone")


@pytest.mark.parametrize(
    ("model", "names", "total", "highest"),
    [
        ("chat", ("running",), 7, 4.0),  # over the engines, without other models and without the time it was created
        ("chat", ("usage",), 1, 0.75),
        ("chat", ("gone",), None, None),  # unknown, not zero
        ("nobody", ("running",), None, None),  # another model's page says nothing of ours
        ("nobody", ("info",), 1, 1.0),  # what has no label of a model is of all of them
        ("chat", ("gone", "old"), 9, 9.0),  # the first of its names that is there
        ("chat", ("usage", "old"), 1, 0.75),
    ],
)
def test_counts_are_summed_and_of_ratios_the_highest_counts(model, names, total, highest):
    page = Page(PAGE, model, NAMES)
    assert (page.total(*names), page.highest(*names)) == (total, highest)


def test_labels_are_read_where_they_are_the_data():
    assert [labels["size"] for labels in Page(PAGE, "chat", NAMES).labels("info")] == ["10"]


@given(st.lists(st.integers(0, 10**9), min_size=1), st.lists(st.integers(0, 10**9)))
def test_the_total_is_that_of_the_models_engines_and_of_no_other(ours, others):
    lines = [f'running{{engine="{number}",model_name="a"}} {value}' for number, value in enumerate(ours)]
    lines += [f'running{{engine="{number}",model_name="b"}} {value}' for number, value in enumerate(others)]
    page = Page("\n".join(lines), "a", ("running",))
    assert (page.total("running"), page.highest("running")) == (sum(ours), max(ours))


@pytest.mark.parametrize("line", ["running NaN", "running", 'running{model_name="chat} 1', "running many"])
def test_a_line_that_is_no_sample_is_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011 (the parser's messages are not ours)
        Page(line, "chat", NAMES).total("running")
