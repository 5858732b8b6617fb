"""`python -m wsss.cli`, for where the command `wsss` is not on the path."""

from wsss.cli import main

main()
