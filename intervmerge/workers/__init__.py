"""What runs in Ray: the session, the object store, actors and tasks."""
