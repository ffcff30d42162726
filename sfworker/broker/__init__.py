"""The only package (with the web side's client) that speaks Redis. State changes are the Lua scripts in `lua/`."""
