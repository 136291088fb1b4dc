"""`python -m drgn` is `drgn`."""

from drgn.cli import main

main()
