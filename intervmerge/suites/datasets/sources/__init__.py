"""Layouts in which data sets lie on disk: one small file each."""
