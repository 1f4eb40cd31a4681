"""Merged bases: the merged model before any intervention."""
