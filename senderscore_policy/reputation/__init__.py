"""Where scores come from: DNS through dnspython, behind a cache, a query budget and a breaker."""
