"""The domain of refunds: what one is, how it is stored, and the protocol that moves the money at most once."""
