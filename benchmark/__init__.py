"""How fast, how small and how true this is on a machine: `python -m benchmark`."""
