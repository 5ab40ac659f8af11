"""What Python code and the command line do with samtune: start runs, continue and read them."""
