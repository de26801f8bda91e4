"""Benchmarks: each number is a ratio to a floor of the same run."""
