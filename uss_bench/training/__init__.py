"""What a method is lent while it trains."""
