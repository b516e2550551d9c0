"""bitfront.studies."""
