"""The command line, `hcnn-fast`; it needs the extra `cli` (typer, rich, matplotlib, ...)."""
