"""The engine: from a command line to a run folder."""
