"""Every image among the classes of all tasks, where nobody says of which task it is: classes, routers, routes."""

from intervmerge.trial.joint.routes import Routes, routed, routes

__all__ = ["Routes", "routed", "routes"]
