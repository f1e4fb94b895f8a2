"""Each wraps one outside thing behind a port."""
