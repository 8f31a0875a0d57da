"""als_analysis: the programs that run on compute nodes (correlate, describe, run a job); knows nothing of Dagster."""

__version__ = "0.1.0"
