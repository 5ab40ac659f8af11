"""Read-only views of runs and spaces."""
