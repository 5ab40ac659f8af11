"""The commands, one module per command or group of commands; each is imported when typed."""
