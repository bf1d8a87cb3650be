"""An upgrade that refuses nobody: a running Headrace passes its listening sockets to the next one, then answers what it has.

The running one waits at a Unix socket in a folder of its user. The next one connects to it, starts what it serves beside, and
asks for the sockets when that is ready. Until it says that it listens, whatever happens to it changes nothing for the running
one, which then accepts nobody, answers what it has and ends; should the next one die meanwhile, it accepts clients again.
"""
