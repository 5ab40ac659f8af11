"""The driver: Ray Tune runs trials, the record keeps what they did."""
