"""Holds the functions behind the task types, one module per task type or family. They run in party processes."""
