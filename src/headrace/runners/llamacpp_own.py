"""llama.cpp's server as it comes: `python -P -m headrace.runners.llamacpp_own SPEC`, with SPEC as JSON.

Of the spec only the model, its name and the address are obeyed; slots, threads, batches, caches and what idle threads do are at
the defaults of llama-server. It is what `headrace tune` compares with. Exit codes are those of `llamacpp`.
"""

import os
import threading

from headrace.runners.child import begin
from headrace.runners.llamacpp import listen, served

AUTO_SLOTS = -1
"""llama-server's own default, four slots with one cache; the binding's is 1, which would be an unfair rival."""


def main() -> None:
    """Load the model, serve until killed. Does not return."""
    spec = begin()
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path, p.model_alias = spec["model"], {spec["name"]}
    p.n_parallel, p.kv_unified = AUTO_SLOTS, True
    p.endpoint_metrics, p.ui, p.verbosity = True, False, 2
    listen(p, spec["address"])
    server = served(p, spec["model"])
    print(f"serving {spec['name']} at {server.listening_address}", flush=True)
    threading.Event().wait()
    os._exit(0)


if __name__ == "__main__":
    main()
