"""Fine-tuned models in a running server: loaded, replaced and removed without a restart."""
