"""SecretFlow's own components, run inside our session."""
