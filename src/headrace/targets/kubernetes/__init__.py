"""A cluster that is asked and changed: what `headrace apply`, `diff`, `delete`, `status`, `logs` and `why` are made of."""
