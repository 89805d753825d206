"""Plain tools of the tests: raw sockets at both ends of the proxy, a reference parser, real programs.

Nothing here imports the code under test but to run it.
"""
