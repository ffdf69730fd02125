"""`python -m xadflow` is the command `xadflow`."""

from xadflow.cli import main

main()
