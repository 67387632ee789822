"""The refund domain: what a refund is, how it is stored, and the protocol that moves its money at most once."""
