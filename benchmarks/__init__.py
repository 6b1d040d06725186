"""Benchmarks: each runs both sides in one process and prints ratios. ``make bench`` runs them all."""
