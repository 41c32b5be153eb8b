"""The command line: thin commands that read options, call one function, print, and exit with a documented status."""
