"""A run on more than one machine: shards of its stages as jobs of Slurm, or its blocks as tasks of Dask."""
