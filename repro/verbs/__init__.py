"""The verbs of the command line, one small module for each group; `cli.py` dispatches to them."""
