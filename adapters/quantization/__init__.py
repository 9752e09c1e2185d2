"""Zero-shot post-training quantization: small networks from trained ones, without the data that trained them."""
