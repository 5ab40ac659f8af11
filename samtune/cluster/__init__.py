"""A Ray of our own and its workers. Imports nothing: `forks` has to come before Ray."""
