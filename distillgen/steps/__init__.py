"""The steps of the road: each module holds one, or what several need."""
