"""Timings and counts; never asserted in tests. Each module says how to repeat its figures."""
