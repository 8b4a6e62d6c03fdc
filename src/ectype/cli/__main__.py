"""`python -m ectype.cli`."""

from ectype.cli import main

main()
