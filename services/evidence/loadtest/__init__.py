"""Load tests against any OpenAI-compatible server: scenarios in, checked streams, figures, a report out."""
