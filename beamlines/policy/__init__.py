"""The rules that decide about scans. Pure functions: no I/O, no SQL, no Dagster, and the time is an argument."""
