"""Manifolds of images: known and learned ones, attacks along them, and distances to them."""
