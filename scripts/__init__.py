"""What a person runs by hand now and then."""
