"""One module a group of commands. Nothing heavy is imported before a command needs it."""
