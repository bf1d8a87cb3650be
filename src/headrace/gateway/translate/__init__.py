"""OpenAI's API for engines that speak otherwise: one file per protocol, sans I/O. Engines that speak it pass none of this."""
