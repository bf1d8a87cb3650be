"""Measure a running server: `bench(Wish(…))` gives a Report, which `shown`, `html` and `encoded` write.

>>> from headrace.measure import Load, Slo, Wish, bench, shown
>>> report = bench(Wish(loads=(Load("closed", 8),), duration=20, slo=Slo(ttft=0.5)))
>>> print(shown(report))
"""

from headrace.measure.base import Load, Report, Slo, Stage
from headrace.measure.bench import bench, measured
from headrace.measure.compare import compared
from headrace.measure.page import html
from headrace.measure.record import decoded, encoded, rows
from headrace.measure.text import shown
from headrace.measure.wish import Wish

__all__ = [
    "Load", "Report", "Slo", "Stage", "Wish", "bench", "compared", "decoded", "encoded", "html", "measured", "rows", "shown",
]  # fmt: skip
