"""How the built-in model is made: `python -m models.builtin.train --help`."""
