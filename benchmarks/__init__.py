"""Benchmarks of time, memory and reliability. Each module says how to repeat its figures."""
