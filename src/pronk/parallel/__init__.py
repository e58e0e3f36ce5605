"""Meshes and sharding over many devices."""
