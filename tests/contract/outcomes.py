"""What became of each promise in this run: printed as a table at its end, and kept for `scripts/engine_table.py`."""

import pytest

# No test files, and full of asserts.
pytest.register_assert_rewrite("deployment", "promised_texts", "promised_tensors", "promised_replicas")

KEPT_AS = "headrace/promises"
"""In pytest's cache: {engine: {promise: outcome}}, over all runs."""

_found: dict[str, dict[str, str]] = {}
_SHOWN = {"failed": "FAIL", "skipped": "not here"}
_WIDTH = 9


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    told = getattr(item, "callspec", None)
    if told and {"column", "promised"} <= told.params.keys() and (report.when == "call" or not report.passed):
        outcomes = _found.setdefault(told.params["column"].name, {})
        if outcomes.get(told.params["promised"]) != "failed":
            outcomes[told.params["promised"]] = report.outcome
    return report


def pytest_terminal_summary(terminalreporter, config):
    if not _found:
        return
    terminalreporter.section("engines and what they promise")
    for line in table(_found):
        terminalreporter.write_line(line)
    if cache := getattr(config, "cache", None):
        before = cache.get(KEPT_AS, {})
        merged = {name: before.get(name, {}) | _found.get(name, {}) for name in before | _found}
        cache.set(KEPT_AS, merged)


def table(found):
    """The lines of the table of these outcomes."""
    from behaviours import PROMISES
    from engine_matrix import COLUMNS, cell
    from promises import MARKS

    columns = [column for column in COLUMNS if column.name in found]
    yield f"{'':72}" + "".join(f"{column.name:>{_WIDTH}}" for column in columns)
    for promised in PROMISES.values():
        marks = []
        for column in columns:
            outcome = found[column.name].get(promised.name)
            declared = MARKS[type(cell(column, promised))]
            marks.append(declared if outcome == "passed" or declared == "–" else _SHOWN.get(outcome, ""))
        yield f"{promised.sentence[:71]:72}" + "".join(f"{mark:>{_WIDTH}}" for mark in marks)
