"""One page from the JSON that runs leave."""
