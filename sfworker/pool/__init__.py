"""Controls the computing processes from the daemon, which are the template, party processes and meshes of them."""
