"""Builds the packaged suite mini8 from sources that anybody can install."""
