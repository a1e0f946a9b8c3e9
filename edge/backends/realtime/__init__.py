"""The backend that speaks to OpenAI-Realtime-compatible WebSocket servers: docs/realtime.md."""
