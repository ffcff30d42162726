"""Starts SecretFlow's session in a party process, with its devices, links and codec. Nothing else starts SecretFlow."""
