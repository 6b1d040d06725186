"""Rows that fit nowhere: how far out they are, and what the noise of a model is made of."""
