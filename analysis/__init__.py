"""Comparison of variants from the Parquet files of runs. Needs no torch and no Ray."""
