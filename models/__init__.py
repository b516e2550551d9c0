"""bitfront.models."""
