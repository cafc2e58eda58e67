"""What a fleet says: messages, topics, frames of workers, records of measurements. No transport."""
