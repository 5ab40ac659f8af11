"""Functions that start, continue and read runs, for Python code and for the command line."""
