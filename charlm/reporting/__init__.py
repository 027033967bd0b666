"""Reports on finished runs: comparisons, baselines, a page."""
