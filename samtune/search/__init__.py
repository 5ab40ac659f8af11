"""The search: which configuration to try next, and which trials continue. Uses no Ray."""
