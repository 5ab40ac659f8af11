"""What the optimizers cost: counted exactly, and timed against their peers."""
