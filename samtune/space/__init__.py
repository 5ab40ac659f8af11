"""A space file: read, checked against its trainable, frozen."""
