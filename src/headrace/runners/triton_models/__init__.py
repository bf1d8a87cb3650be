"""What runs inside Triton's python backend, in the engine's own environment.

The folder is copied into the model repository and imported there as a package of its own, `triton_models`: its modules
know each other by relative imports and nothing else of Headrace. No pickle is read here unless the spec says so.
"""
