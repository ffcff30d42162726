"""One mutual-TLS port of a party for all executions that it shares with parties elsewhere. A process of its own."""
