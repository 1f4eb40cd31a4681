"""Folders that lie on a store, as `s3://bucket/study`: each is worked on in a copy of it on this machine."""
