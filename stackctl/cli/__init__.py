"""The command line: a thin face of the library, and the only part that prints and exits."""
