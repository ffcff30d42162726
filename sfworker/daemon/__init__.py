"""Runs the daemon, one asyncio process that takes jobs, owns their leases and deadlines, and answers. No SecretFlow."""
