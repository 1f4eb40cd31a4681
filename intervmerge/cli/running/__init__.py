"""Commands for what runs elsewhere: a search of another terminal or machine, a server, a cluster."""
