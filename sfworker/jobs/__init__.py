"""The functions behind the task types; one module per task type or family. Run in party processes."""
