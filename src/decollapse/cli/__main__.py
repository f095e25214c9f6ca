"""`python -m decollapse.cli`."""

from decollapse.cli import main

main()
