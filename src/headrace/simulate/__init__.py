"""Load in time: a trace through the gateway's queue, onto replicas that a policy starts and stops, without waiting for it."""
