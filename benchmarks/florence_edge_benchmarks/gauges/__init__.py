"""What is read off a system while it answers: stages, waits for a GPU, memory."""
