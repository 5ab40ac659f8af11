"""A run on disk: the SQLite record, its tables and its copies."""
