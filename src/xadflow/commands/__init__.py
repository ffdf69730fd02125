"""One file a subcommand of `xadflow`; cli.py imports one only when it runs."""
