"""Side-by-side measurements of charlm and others; see `bench.py`."""

from charlm.system.cuda import preload

# Before any of the processes imports TensorFlow, which would find no GPU.
preload()
