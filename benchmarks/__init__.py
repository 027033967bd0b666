"""Side-by-side measurements of charlm and others; see `bench.py`."""
