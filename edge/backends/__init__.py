"""What produces and consumes the audio of a session."""
