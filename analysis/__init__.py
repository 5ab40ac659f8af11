"""Reads a run's Parquet files and compares variants; starts nothing, needs no torch and no Ray."""
