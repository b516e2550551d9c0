"""Shipped energy tables: data, one YAML file each."""
