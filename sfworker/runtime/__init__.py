"""The party process: the only package that starts SecretFlow. Never imports redis."""
