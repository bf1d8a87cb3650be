"""The pages of the gateway's address: what runs, how it went, why, and a place to talk to the models."""
