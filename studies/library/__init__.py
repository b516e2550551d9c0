"""Ready-made studies: data, one YAML file each."""
