"""Benchmarks of charlm beside other frameworks; see `bench.py`."""

from charlm.system.cuda import preload

# Must precede any import of TensorFlow, which would otherwise find no GPU.
preload()
