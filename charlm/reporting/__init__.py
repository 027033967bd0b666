"""What is made of finished runs: baselines, analyses, a page."""
