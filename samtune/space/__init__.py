"""Space files: reading, checking against the trainable, and freezing."""
