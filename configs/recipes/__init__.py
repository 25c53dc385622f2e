"""YAML training recipes (package data)."""
