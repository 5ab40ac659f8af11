"""`python -m samtune`: the command line where the console script is not on the path."""

from samtune.cli import main

main()
