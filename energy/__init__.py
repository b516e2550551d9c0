"""bitfront.energy."""
