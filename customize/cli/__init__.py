"""The command line: commands, flags, help, and what is printed."""
