"""Images of a run's rows: where they are, and small copies of them."""
