"""The grid search: plan, run, store, select, refine."""
