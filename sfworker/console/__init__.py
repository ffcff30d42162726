"""A web page for operators: what the commands show and do, in a browser. It only calls what the commands call."""
