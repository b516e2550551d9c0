"""bitfront.searchers."""
