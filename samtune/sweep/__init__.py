"""The driver of a sweep: Ray Tune runs the trials, and the record keeps their results."""
