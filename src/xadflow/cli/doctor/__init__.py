"""xadflow doctor: what is missing here, and the command that mends it."""
