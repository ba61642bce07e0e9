"""``lightbsr upscale`` and ``lightbsr.Upscaler``."""
