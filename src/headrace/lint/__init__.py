"""Rules over serving set-ups, ours and other people's: what will not work, what will hurt, and what to write instead."""
