"""`headrace` whose servers elsewhere can go on with another's answer: streams are kept to be resumed, as with its own.

Of servers that it did not start Headrace does not know whether they can, so it does not try; the mock engines of the benchmark
are such servers, and what it costs to be able to is to be measured.
"""

import functools
import sys

from headrace.cli import main
from headrace.targets import watched

watched.Endpoint = functools.partial(watched.Endpoint, continues="final_message")  # type: ignore[assignment, misc]

if __name__ == "__main__":
    sys.exit(main())
