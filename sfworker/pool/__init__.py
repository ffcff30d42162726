"""The computing processes, seen from the daemon: the template, party processes, and the mesh of one execution."""
