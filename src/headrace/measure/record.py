"""Reports as JSON, and back."""

from dataclasses import asdict

import msgspec

from headrace.errors import UsageError
from headrace.measure.base import Report

FORMAT = "headrace-bench/1"


class _Kept(msgspec.Struct):
    format: str
    report: msgspec.Raw


def encoded(report: Report) -> bytes:
    """The report for machines, and for --compare. Infinite and undefined numbers do not occur in it."""
    return msgspec.json.format(msgspec.json.encode({"format": FORMAT, "report": report}), indent=1) + b"\n"


def decoded(raw: bytes, name: str) -> Report:
    """What `encoded` wrote. Raises UsageError, which names the file."""
    try:
        kept = msgspec.json.decode(raw, type=_Kept)
        if kept.format != FORMAT:
            raise UsageError(f"{name}: its format is {kept.format!r}, and this version reads {FORMAT!r}.")
        return msgspec.json.decode(kept.report, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: this is no report of headrace bench --json: {error}.") from None


def rows(report: Report) -> list[dict[str, object]]:
    """A row for each measured request of all stages: what a data frame is made of."""
    return [{"load": stage.label} | asdict(row) for stage in report.stages for row in stage.rows]
