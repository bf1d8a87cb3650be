"""What every engine behind Headrace does for its clients: one function for each promise, in three files.

Which of it applies to which engine is in engine_matrix.py; test_behaviours.py holds them to it.
"""

import promised_replicas
import promised_tensors
import promised_texts
from promises import MADE, Promise

_IN_ORDER = (promised_texts, promised_tensors, promised_replicas)

PROMISES: dict[str, Promise] = {
    promised.name: promised for module in _IN_ORDER for promised in MADE if promised.kept.__module__ == module.__name__
}
"""By the names of their functions, in the order in which they are tried: those that break a replica come last."""
