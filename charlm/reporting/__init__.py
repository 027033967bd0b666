"""What is made of finished runs: yardsticks, analyses, a page."""
