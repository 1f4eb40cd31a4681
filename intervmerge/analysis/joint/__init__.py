"""The general model: every image among the classes of all tasks, and nobody says of which task it is."""
