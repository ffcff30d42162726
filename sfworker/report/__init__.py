"""Pictures and tables of results, for people who look at them and programs that go on with them."""
