"""Tasks, one in each module; a new module here is found by the registry.

Their algorithms, which need neither jobs nor the pool, are in `algorithms/`.
"""
