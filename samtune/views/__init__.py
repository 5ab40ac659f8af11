"""What people ask of a run or a space: read-only."""
