"""Clustering algorithms and engines."""
