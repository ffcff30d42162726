"""Speaks Redis; nothing else does but the web side's client. State changes are the Lua scripts in `lua/`."""
