"""What the web side hears: events and results, built here and published by the broker's scripts."""
