"""What a plan will cost before it starts: time from runs that were measured, bytes by arithmetic."""
