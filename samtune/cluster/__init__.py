"""The Ray that a sweep runs on: how it is started or joined, and what its workers run."""
