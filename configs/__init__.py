"""YAML presets (package data)."""
