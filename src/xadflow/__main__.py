"""`python -m xadflow` is the command `xadflow`."""

from xadflow.cli.main import main

main()
