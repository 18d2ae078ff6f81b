"""What a method remembers between steps: queues and banks."""
