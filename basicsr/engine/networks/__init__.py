"""What is known of networks: operations and how they are written, restorers; the page and the summary that are made of it."""
