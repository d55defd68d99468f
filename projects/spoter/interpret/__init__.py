"""What the network has learnt, with a null or an interval beside every number."""
