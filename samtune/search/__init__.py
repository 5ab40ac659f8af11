"""What to try next, and who goes on. Knows Optuna, not Ray."""
