"""Stand-ins that tests, the bench and the local stack share. It imports none of them."""
