"""What several steps share: options, records, jsonl, resumable annotation, replies, spans, labels, prompts, backends."""
